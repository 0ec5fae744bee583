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
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from mmjax.data.couples import couples
from mmjax.data.names import NEUTRAL, Names, find_names
from mmjax.data.photos import BytesPhoto
from mmjax.data.region_set import ArrayRegions
from mmjax.data.schema import Dialogue, Photo
from mmjax.data.sources import Source
from mmjax.errors import UserError

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

Change = Callable[[Dialogue], Dialogue]
Photos = Mapping[str, Photo]  # by id

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
        seen = perturbation.photos(_photos_of(source))
        self.photos = {name: p.file for name, p in seen.items() if p.file is not None}
        self.regions = {name: p.regions for name, p in seen.items() if p.regions is not None}
        self._change: Change = functools.partial(_as_seen, seen=seen)

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


# Pixels and labels


def _grey() -> BytesPhoto:
    """One photo of the mean colour of ImageNet: zero once it is normalised."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (124, 116, 104)).save(data, "PNG")
    return BytesPhoto(data.getvalue())


BLANK = _grey()


def _photos_of(source: Source) -> dict[str, Photo]:
    """All that are shared or proposed."""
    found = {}
    for i in range(len(source)):
        dialogue = source[i]
        for holder in (*dialogue.turns, *filter(None, dialogue.proposals)):
            found |= {photo.id: photo for photo in holder.photos}
    return found


def _blanked(photos: Photos) -> Photos:
    """One grey, one region of zeros, and no box: where it is would tell one grey from another."""
    width = next((p.regions.read().shape[1] for p in photos.values() if p.regions is not None), 0)
    zeros = ArrayRegions(np.zeros((1, width), np.float32), "blank")
    return {
        name: replace(
            photo,
            file=None if photo.file is None else BLANK,
            boxes=(),
            regions=None if photo.regions is None else zeros,
        )
        for name, photo in photos.items()
    }


def _exchanged(photos: Photos) -> Photos:
    return _given(photos, _others(photos, "file"), _others(photos, "regions"))


def _contrasted(photos: Photos) -> Photos:
    return _given(photos, _of_other_labels(photos, "file"), _of_other_labels(photos, "regions"))


def _given(photos: Photos, files: Photos, regions: Photos) -> Photos:
    """Boxes go with their pixels. They say where in these something is; and those of the photo
    itself would tell how many things it shows, and how large, to a control that must not know."""
    return {
        name: replace(
            photo,
            file=files[name].file,
            boxes=files[name].boxes,
            regions=regions[name].regions,
        )
        for name, photo in photos.items()
    }


def _others(photos: Photos, what: str) -> Photos:
    """For each photo the one whose `what` it gets: itself where it has none."""
    names = [name for name, photo in photos.items() if getattr(photo, what) is not None]
    if not names:
        return photos
    others = exchange([getattr(photos[name], what).digest for name in names], "photos")
    found = {name: photos[names[other]] for name, other in zip(names, others, strict=True)}
    return {**photos, **found}


def _of_other_labels(photos: Photos, what: str) -> Photos:
    """For each photo one with other labels: the two of a couple that of each other, and who is
    left over that of the first one that there is."""
    names = sorted(name for name, photo in photos.items() if getattr(photo, what) is not None)
    if not names:
        return photos
    labels = [frozenset(photos[name].labels) for name in names]
    if len(set(labels)) < 2:
        raise UserError("there are no two photos with other labels, so none can be exchanged.")
    found = dict(photos)
    for one, other in couples(names, labels):
        found[names[one]], found[names[other]] = photos[names[other]], photos[names[one]]
    for name, own in zip(names, labels, strict=True):
        if found[name] is photos[name]:
            first = next(k for k, theirs in enumerate(labels) if theirs != own)
            found[name] = photos[names[first]]
    return found


def _as_seen(dialogue: Dialogue, seen: Photos) -> Dialogue:
    def other(photo: Photo) -> Photo:
        new = seen[photo.id]
        return replace(photo, file=new.file, boxes=new.boxes, regions=new.regions)

    return _photos(dialogue, other)


def _without_labels(dialogue: Dialogue) -> Dialogue:
    def bare(photo: Photo) -> Photo:
        boxes = tuple(replace(box, label="") for box in photo.boxes)
        return replace(photo, labels=(), boxes=boxes)

    return _photos(dialogue, bare)


def _labels_of_others(source: Source) -> Change:
    found = {
        photo.id: (photo.labels, photo.boxes)
        for i in range(len(source))
        for turn in source[i].turns
        for photo in turn.photos
    }
    names = list(found)
    others = exchange([repr(found[name]) for name in names], "labels")
    given = {name: found[names[other]] for name, other in zip(names, others, strict=True)}
    return functools.partial(_with_labels, given=given)


def _with_labels(dialogue: Dialogue, given: Mapping[str, tuple]) -> Dialogue:
    def other(photo: Photo) -> Photo:
        labels, boxes = given.get(photo.id, ((), ()))  # proposed, and shared nowhere
        return replace(photo, labels=labels, boxes=boxes)

    return _photos(dialogue, other)


def exchange(contents: Sequence[str], what: str) -> np.ndarray:
    """For each thing another one whose content it gets; those with equal content stay equal.

    Returns:
      int64 [N], in one cycle through the different contents: nobody keeps its own.

    Raises:
      UserError: all contents are the same; `what` they are of.
    """
    first: dict[str, int] = {}
    for i, content in enumerate(contents):
        first.setdefault(content, i)
    if len(first) < 2:
        raise UserError(f"there are no two {what} that differ, so none can be exchanged.")
    known = sorted(first)  # whatever order the things came in
    other = dict(zip(known, _cycle(len(known), np.random.default_rng(0)), strict=True))
    return np.array([first[known[other[content]]] for content in contents], np.int64)


# What is said


def _speakers_swapped(dialogue: Dialogue) -> Dialogue:
    """Who shares a photo stays; of everybody else's messages the next speaker is told to be it."""
    speakers = sorted({turn.speaker for turn in dialogue.turns})
    other = dict(zip(speakers, [*speakers[1:], *speakers[:1]], strict=True))
    turns = (
        turn if turn.photos else replace(turn, speaker=other[turn.speaker])
        for turn in dialogue.turns
    )
    return replace(dialogue, turns=tuple(turns))


def _order_shuffled(dialogue: Dialogue) -> Dialogue:
    """Each speaker's messages between two shares change places, none staying where it is."""
    rng, texts = _rng(dialogue), [turn.text for turn in dialogue.turns]
    for places in _spoken_together(dialogue):
        for place, other in zip(places, _cycle(len(places), rng), strict=True):
            texts[place] = dialogue.turns[places[other]].text
    return _said(dialogue, texts)


def _only(dialogue: Dialogue, kept: int) -> Dialogue:
    """Of each speaker's messages between two shares the first (0) or the last (-1)."""
    texts = [""] * len(dialogue.turns)
    for places in _spoken_together(dialogue):
        texts[places[kept]] = dialogue.turns[places[kept]].text
    return _said(dialogue, texts)


def _texts_of_others(source: Source) -> Change:
    texts, owners = [], []
    for i in range(len(source)):
        said = [turn.text for turn in source[i].turns if turn.text.strip()]
        texts += said
        owners += [source[i].id] * len(said)
    if len(set(owners)) < 2:
        raise UserError("there are no two dialogues, so their messages cannot be exchanged.")
    return functools.partial(_with_texts, texts=texts, owners=owners)


def _with_texts(dialogue: Dialogue, texts: Sequence[str], owners: Sequence[str]) -> Dialogue:
    rng, said = _rng(dialogue), []
    for turn in dialogue.turns:
        drawn = int(rng.integers(len(texts)))
        while owners[drawn] == dialogue.id:
            drawn = int(rng.integers(len(texts)))
        said.append(texts[drawn] if turn.text.strip() else turn.text)
    return _said(dialogue, said)


def _unknown(dialogue: Dialogue) -> Dialogue:
    products = tuple(replace(product, attributes=()) for product in dialogue.products)
    return replace(dialogue, products=products)


def _names_masked(source: Source) -> Change:
    return functools.partial(_with_masks, names=find_names(source))


def _with_masks(dialogue: Dialogue, names: Names) -> Dialogue:
    def masked(photo: Photo) -> Photo:
        return replace(photo, labels=tuple(names.mask(label) for label in photo.labels))

    return _photos(_said(dialogue, [names.mask(turn.text) for turn in dialogue.turns]), masked)


def _photos(dialogue: Dialogue, change: Callable[[Photo], Photo]) -> Dialogue:
    """Changes those that are shared and those that are proposed."""
    turns = (
        replace(turn, photos=tuple(change(photo) for photo in turn.photos)) if turn.photos else turn
        for turn in dialogue.turns
    )
    proposals = (
        proposal and replace(proposal, photos=tuple(change(photo) for photo in proposal.photos))
        for proposal in dialogue.proposals
    )
    return replace(dialogue, turns=tuple(turns), proposals=tuple(proposals))


def _said(dialogue: Dialogue, texts: Sequence[str]) -> Dialogue:
    turns = (replace(turn, text=text) for turn, text in zip(dialogue.turns, texts, strict=True))
    return replace(dialogue, turns=tuple(turns))


def _spoken_together(dialogue: Dialogue) -> Iterator[list[int]]:
    """Places of the messages of one speaker between two shares, those without text left out."""
    found: dict[tuple[int, int], list[int]] = {}
    shares = 0
    for place, turn in enumerate(dialogue.turns):
        shares += bool(turn.photos)  # what is said with a photo comes after it
        if turn.text.strip():
            found.setdefault((shares, turn.speaker), []).append(place)
    yield from found.values()


def _cycle(size: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [size]: a permutation that is one cycle, so that nothing stays where there are two."""
    order = rng.permutation(size)
    other = np.empty(size, np.int64)
    other[order] = np.roll(order, 1)
    return other


def _rng(dialogue: Dialogue) -> np.random.Generator:
    digest = hashlib.blake2b(dialogue.id.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _each(change: Change) -> Callable[[Source], Change]:
    """A change that need not look at the source."""
    return lambda source: change


PERTURBATIONS = {
    "images_blanked": Perturbation("images", "every photo is the same grey", photos=_blanked),
    "images_shuffled": Perturbation(
        "images", "every photo has the pixels of another one", photos=_exchanged
    ),
    OTHER_LABELS: Perturbation(
        "images", "every photo has the pixels of one with other labels", photos=_contrasted
    ),
    "labels_dropped": Perturbation("labels", "no photo has labels", _each(_without_labels)),
    "labels_shuffled": Perturbation(
        "labels", "every photo has the labels of another one", _labels_of_others
    ),
    "texts_shuffled": Perturbation(
        "texts", "every message is one of another dialogue", _texts_of_others
    ),
    "names_masked": Perturbation(
        "names", f'first names are "{NEUTRAL}", in messages and labels', _names_masked
    ),
    "order_shuffled": Perturbation(
        "order", "each speaker's messages change places", _each(_order_shuffled)
    ),
    "last_turns_only": Perturbation(
        "earlier",
        "of each speaker only the last message before the photo",
        _each(functools.partial(_only, kept=-1)),
    ),
    "first_turns_only": Perturbation(
        "later", "of each speaker only the first message", _each(functools.partial(_only, kept=0))
    ),
    "speakers_swapped": Perturbation(
        "speakers",
        "each message is the other speaker's; who shares stays",
        _each(_speakers_swapped),
    ),
    "knowledge_dropped": Perturbation(
        "knowledge", "nothing is known of the products", _each(_unknown)
    ),
}
