"""A source with one input taken away: what a system still finds then, it did not find there.

Each perturbation turns one dialogue into another; those that exchange things between dialogues look
at the whole source first. Shares stay where they are, and what is said before one stays before it,
so that a perturbed dialogue asks for the same photo, and decides after the same turns. Draws depend
on the seed and the dialogue's id alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable

from mmjax.data.names import NEUTRAL
from mmjax.data.perturb_photos import (
    Change,
    Photos,
    as_seen,
    blanked,
    contrasted,
    exchanged,
    labels_of_others,
    photos_of,
    without_labels,
)
from mmjax.data.perturb_texts import (
    names_masked,
    nothing_known,
    one_each,
    order_shuffled,
    speakers_swapped,
    texts_of_others,
)
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source

# What a task may read -> how it is called in a sentence.
INPUTS = {
    "images": "the pixels of the photos",
    "labels": "the labels of the photos",
    "texts": "what is said",
    "names": "the names of people",
    "order": "the order of the messages",
    "earlier": "what each speaker says before the last message",
    "later": "what each speaker says after the first message",
    "speakers": "who says what",
    "knowledge": "what is known of the products",
}

# Minimal pairs: the same words, and another kind of thing in the photo.
OTHER_LABELS = "images_of_other_labels"

# Part of the fingerprint: raise it when a perturbation gives other dialogues than before.
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Attributes:
    takes: the input that is taken away, of `INPUTS`.
    says: what is done, in words.
    change: looks at the source, and gives the function for its dialogues.
    photos: what becomes of what is seen in the source's photos: pixels, boxes, regions.
    """

    takes: str
    says: str
    change: Callable[[Source], Change] | None = None
    photos: Callable[[Photos], Photos] | None = None


def perturbed(source: Source, name: str) -> PerturbedSource:
    """The source after the perturbation `name`, a key of `PERTURBATIONS`.

    Raises:
      UserError: things are to be exchanged, and there are no two that differ.
    """
    return PerturbedSource(source, name, PERTURBATIONS[name])


class PerturbedSource:
    """See `perturbed`. It has the name of what it was made from, and a fingerprint of its own."""

    def __init__(self, source: Source, name: str, perturbation: Perturbation):
        self._source = source
        self.name, self.photos, self.regions = source.name, source.photos, source.regions
        digest = hashlib.sha256(f"{source.fingerprint} {name} {_FORMAT}".encode())
        self.fingerprint = digest.hexdigest()
        if perturbation.change is not None:
            self._change = perturbation.change(source)
            return
        seen = perturbation.photos(photos_of(source))
        self.photos = {name: p.file for name, p in seen.items() if p.file is not None}
        self.regions = {name: p.regions for name, p in seen.items() if p.regions is not None}
        self._change: Change = functools.partial(as_seen, seen=seen)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Dialogue:
        return self._change(self._source[i])


def differs(source: Source, other: Source) -> bool:
    """Whether any dialogue, or the pixels of any photo, are not the same in both."""

    def content(dialogue: Dialogue) -> tuple:
        shared = [photo for turn in dialogue.turns for photo in turn.photos]
        return dialogue, [(photo.file, photo.regions) for photo in shared]

    return any(content(source[i]) != content(other[i]) for i in range(len(source)))


def _each(change: Change) -> Callable[[Source], Change]:
    """A change that need not look at the source."""
    return lambda source: change


PERTURBATIONS = {
    "images_blanked": Perturbation("images", "every photo is the same grey", photos=blanked),
    "images_shuffled": Perturbation(
        "images", "every photo has the pixels of another one", photos=exchanged
    ),
    OTHER_LABELS: Perturbation(
        "images", "every photo has the pixels of one with other labels", photos=contrasted
    ),
    "labels_dropped": Perturbation("labels", "no photo has labels", _each(without_labels)),
    "labels_shuffled": Perturbation(
        "labels", "every photo has the labels of another one", labels_of_others
    ),
    "texts_shuffled": Perturbation(
        "texts", "every message is one of another dialogue", texts_of_others
    ),
    "names_masked": Perturbation(
        "names", f'first names are "{NEUTRAL}", in messages and labels', names_masked
    ),
    "order_shuffled": Perturbation(
        "order", "each speaker's messages change places", _each(order_shuffled)
    ),
    "last_turns_only": Perturbation(
        "earlier",
        "of each speaker only the last message before the photo",
        _each(functools.partial(one_each, kept=-1)),
    ),
    "first_turns_only": Perturbation(
        "later",
        "of each speaker only the first message",
        _each(functools.partial(one_each, kept=0)),
    ),
    "speakers_swapped": Perturbation(
        "speakers",
        "each message is the other speaker's; who shares stays",
        _each(speakers_swapped),
    ),
    "knowledge_dropped": Perturbation(
        "knowledge", "nothing is known of the products", _each(nothing_known)
    ),
}
