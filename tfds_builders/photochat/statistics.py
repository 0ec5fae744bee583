"""Counts of a dialogue source, in the paper's units.

Run as `python -m tfds_builders.photochat.statistics`. The units were found by reproducing the
paper's Tables 1 and 3 on the released files: a turn is a message, the sharing of a photo without
a text is none; turns are merged where the same speaker goes on; a token is what `str.split`
gives; an intent example is a merged turn before the first shared photo, positive when the photo
follows. A dialogue is in a category when any label of its photos is in the category's list; the
list keeps the misspelt "Refridgerator" that the paper's counts imply.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from mmjax.curation.whitelist import load_whitelist
from mmjax.data.schema import Dialogue, Turn
from tfds_builders.statistics_table import print_statistics


@dataclass(frozen=True)
class Statistics:
    """Counts of one split."""

    dialogues: int = 0
    unique_images: int = 0
    label_sets: int = 0
    people: int = 0
    food: int = 0
    animal: int = 0
    product: int = 0
    turns: int = 0
    merged_turns: int = 0
    tokens: int = 0
    intent_negatives: int = 0
    intent_positives: int = 0


@functools.cache
def categories() -> dict[str, tuple[str, ...]]:
    """The label lists of the categories people, food, animal and product."""
    return dict(load_whitelist().groups)


def statistics(source: Iterable[Dialogue]) -> Statistics:
    """Counts over all dialogues of a source (any `Source`, or any iterable of dialogues)."""
    total = dict.fromkeys(Statistics.__dataclass_fields__, 0)
    images, label_sets = set(), set()
    for dialogue in source:
        photos = [photo for turn in dialogue.turns for photo in turn.photos]
        labels = {label for photo in photos for label in photo.labels}
        images.update(photo.id for photo in photos)
        label_sets.update(frozenset(photo.labels) for photo in photos)
        said = _said(dialogue.turns)
        before = _merged(_said(dialogue.turns[: _first_share(dialogue)]))
        total["dialogues"] += 1
        total["turns"] += len(said)
        total["merged_turns"] += _merged(said)
        total["tokens"] += sum(len(turn.text.split()) for turn in said)
        if photos and before:
            total["intent_negatives"] += before - 1
            total["intent_positives"] += 1
        for category, listed in categories().items():
            total[category] += not labels.isdisjoint(listed)
    return Statistics(**{**total, "unique_images": len(images), "label_sets": len(label_sets)})


def _said(turns: Iterable[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.text or not turn.photos]


def _merged(turns: list[Turn]) -> int:
    return sum(1 for _ in itertools.groupby(turns, key=lambda turn: turn.speaker))


def _first_share(dialogue: Dialogue) -> int:
    shares = [k for k, turn in enumerate(dialogue.turns) if turn.photos]
    return shares[0] if shares else len(dialogue.turns)


if __name__ == "__main__":
    sys.exit(
        print_statistics(
            "tfds_builders.photochat.statistics",
            "Counts of a dialogue source, in the paper's units.",
            statistics,
            dataset="photochat",
        )
    )
