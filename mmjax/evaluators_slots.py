"""Does the photo decide what is said? Answers judged by the one word of them that a photo decides.

An example has a slot where its first reference names exactly one of the labels of the split's
photos, and that is a label of a photo that is read. Two figures of these examples:

* "slot_accuracy": in how many the text that is written names that label and no other, in percent;
* "swap_lowers": in how many the reference is less likely when the photos have the pixels of others
  with other labels (the perturbation `OTHER_LABELS`: minimal pairs), in percent. It is 0 for who
  sees no photos.

Examples that are asked in the same words are not independent: intervals draw them together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from mmjax.data.schema import Dialogue, Turn, labels_of
from mmjax.data.sources import Source
from mmjax.evaluators import Evaluation
from mmjax.metrics.slots import Fillers

SLOT_FIGURES = ("slot_accuracy", "swap_lowers")


@dataclasses.dataclass(frozen=True)
class Slots:
    """Attributes:
    fillers: what may fill one.
    right: of each example the label that does, or None where it has no slot.
    groups: int [N], equal where the words before are the same.
    """

    fillers: Fillers
    right: Sequence[str | None]
    groups: np.ndarray


def find_slots(
    source: Source,
    record: np.ndarray,
    sub: np.ndarray,
    read: Callable[[Dialogue, int], Sequence[Turn]],
    references: Callable[[Dialogue, int], Sequence[str]],
) -> Slots | None:
    """The slots of the examples (record[k], sub[k]); None where none of them has one.

    Args:
      read: the turns that an example asks with, and of their photos those that count as read.
    """
    turns = (turn for i in range(len(source)) for turn in source[i].turns)
    labels = {label for turn in turns for photo in turn.photos for label in labels_of(photo)}
    found: list[str | None] = []
    words = []
    fillers = Fillers(labels) if labels else None
    for i, k in zip(record.tolist(), sub.tolist(), strict=True):
        dialogue = source[i]
        before = read(dialogue, k)
        words.append("\n".join(f"{turn.speaker} {turn.text}" for turn in before))
        shown = {x.casefold() for t in before for photo in t.photos for x in labels_of(photo)}
        named = fillers.named(references(dialogue, k)[0]) if fillers else frozenset()
        found.append(next(iter(named)) if len(named) == 1 and named <= shown else None)
    if not any(found):
        return None
    return Slots(fillers, found, np.unique(words, return_inverse=True)[1].reshape(-1))


def with_slots(
    judged: Evaluation, slots: Slots, texts: Sequence[str], lower: Bool[np.ndarray, " N"]
) -> Evaluation:
    """An evaluation of texts with the figures of their slots.

    Args:
      lower: where the reference is less likely when the photos are exchanged.
    """
    has = np.array([right is not None for right in slots.right])
    named = [slots.fillers.named(text) for text in texts]
    correct = has & [names == {right} for names, right in zip(named, slots.right, strict=True)]
    values = dict(zip(SLOT_FIGURES, (correct, has & lower), strict=True))
    samples = {name: (100.0 * x, has.astype(np.float64)) for name, x in values.items()}
    return dataclasses.replace(
        judged,
        metrics={
            **judged.metrics,
            **{name: float(a.sum() / b.sum()) for name, (a, b) in samples.items()},
        },
        samples={**judged.samples, **samples},
        per_example={
            **judged.per_example,
            **{name: np.where(has, x, -1) for name, x in values.items()},
            "dialogue": slots.groups,
        },
        groups=slots.groups,
    )
