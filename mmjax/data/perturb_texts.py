"""Dialogues in which something else is said, or somebody else says it, or it is said elsewhere. See
`mmjax.data.perturb`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mmjax.data.exchange import cycle
from mmjax.data.names import Names, find_names
from mmjax.data.perturb_photos import Change, with_photos
from mmjax.data.schema import Dialogue, Photo
from mmjax.data.sources import Source
from mmjax.errors import UserError


def speakers_swapped(dialogue: Dialogue) -> Dialogue:
    """Who shares a photo stays; of everybody else's messages the next speaker is told to be it."""
    speakers = sorted({turn.speaker for turn in dialogue.turns})
    other = dict(zip(speakers, [*speakers[1:], *speakers[:1]], strict=True))
    turns = (
        turn if turn.photos else replace(turn, speaker=other[turn.speaker])
        for turn in dialogue.turns
    )
    return replace(dialogue, turns=tuple(turns))


def order_shuffled(dialogue: Dialogue) -> Dialogue:
    """Each speaker's messages between two shares change places, none staying where it is."""
    rng, texts = _rng(dialogue), [turn.text for turn in dialogue.turns]
    for places in _spoken_together(dialogue):
        for place, other in zip(places, cycle(len(places), rng), strict=True):
            texts[place] = dialogue.turns[places[other]].text
    return _said(dialogue, texts)


def one_each(dialogue: Dialogue, kept: int) -> Dialogue:
    """Of each speaker's messages between two shares the first (0) or the last (-1)."""
    texts = [""] * len(dialogue.turns)
    for places in _spoken_together(dialogue):
        texts[places[kept]] = dialogue.turns[places[kept]].text
    return _said(dialogue, texts)


def texts_of_others(source: Source) -> Change:
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


def nothing_known(dialogue: Dialogue) -> Dialogue:
    products = tuple(replace(product, attributes=()) for product in dialogue.products)
    return replace(dialogue, products=products)


def names_masked(source: Source) -> Change:
    return functools.partial(_with_masks, names=find_names(source))


def _with_masks(dialogue: Dialogue, names: Names) -> Dialogue:
    def masked(photo: Photo) -> Photo:
        return replace(photo, labels=tuple(names.mask(label) for label in photo.labels))

    return with_photos(_said(dialogue, [names.mask(turn.text) for turn in dialogue.turns]), masked)


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


def _rng(dialogue: Dialogue) -> np.random.Generator:
    digest = hashlib.blake2b(dialogue.id.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
