"""Dialogues whose photos show, or are said to show, something else. See `mmjax.data.perturb`."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from mmjax.data.couples import couples
from mmjax.data.exchange import exchange
from mmjax.data.photos import BytesPhoto
from mmjax.data.region_set import ArrayRegions
from mmjax.data.schema import Dialogue, Photo
from mmjax.data.sources import Source
from mmjax.errors import UserError

Change = Callable[[Dialogue], Dialogue]
Photos = Mapping[str, Photo]  # by id


def _grey() -> BytesPhoto:
    """One photo of the mean colour of ImageNet: zero once it is normalised."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (124, 116, 104)).save(data, "PNG")
    return BytesPhoto(data.getvalue())


BLANK = _grey()


def photos_of(source: Source) -> dict[str, Photo]:
    """All that are shared or proposed."""
    found = {}
    for i in range(len(source)):
        dialogue = source[i]
        for holder in (*dialogue.turns, *filter(None, dialogue.proposals)):
            found |= {photo.id: photo for photo in holder.photos}
    return found


def blanked(photos: Photos) -> Photos:
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


def exchanged(photos: Photos) -> Photos:
    return _given(photos, _others(photos, "file"), _others(photos, "regions"))


def contrasted(photos: Photos) -> Photos:
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


def as_seen(dialogue: Dialogue, seen: Photos) -> Dialogue:
    def other(photo: Photo) -> Photo:
        new = seen[photo.id]
        return replace(photo, file=new.file, boxes=new.boxes, regions=new.regions)

    return with_photos(dialogue, other)


def without_labels(dialogue: Dialogue) -> Dialogue:
    def bare(photo: Photo) -> Photo:
        boxes = tuple(replace(box, label="") for box in photo.boxes)
        return replace(photo, labels=(), boxes=boxes)

    return with_photos(dialogue, bare)


def labels_of_others(source: Source) -> Change:
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

    return with_photos(dialogue, other)


def with_photos(dialogue: Dialogue, change: Callable[[Photo], Photo]) -> Dialogue:
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
