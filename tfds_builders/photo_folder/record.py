"""One line about a photo, or one dialogue with photos, as dialogues.

    {"file_name": "a.jpg", "captions": ["A dog.", "It runs."], "labels": ["Dog"],
     "width": 640, "height": 480, "objects": [{"label": "Dog", "bbox_xywh": [10, 20, 300, 200]}]}
    {"id": "a1", "turns": [{"speaker": 0, "text": "Look!"},
                           {"speaker": 0, "photos": [{"file_name": "a.jpg", "labels": ["Dog"]}]}]}

Every caption is a dialogue: it is said, and then the photo is shared. A photo may have several
lines, as in files with one caption per line: their captions add up, and what else is said of the
photo must be the same on each, since nothing tells which line is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmjax.data.schema import Box, Dialogue, Photo, Turn
from tfds_builders import checks
from tfds_builders.checks import MAX_LABELS, BadRecordError, Place, at_most, only, typed
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.photo_folder.files import PhotoFiles

# The first of each is the documented one; the others are common in datasets.
FILE = ("file_name", "file", "image", "img_id", "meme")
CAPTIONS = ("captions", "caption", "text", "boxes")
LABELS = ("labels", "category")
_OTHERS = ("objects", "width", "height", "url")
_MAX_SIDE = 1_000_000


@dataclass
class Known:
    """What the lines before have said.

    Attributes:
      files: the folder's.
      file_of: photo id -> its file's path below the folder.
      told: photo id -> hash of the photo, number of its dialogues, and the line that was first.
      dialogues: table -> id of a dialogue -> its line.
    """

    files: PhotoFiles
    file_of: dict[str, str] = field(default_factory=dict)
    told: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    dialogues: dict[str, dict[str, str]] = field(default_factory=dict)

    def photo_id(self, photo: Mapping[str, Any], place: Place) -> str:
        """The id of a photo in a dialogue: its own, else its file's path."""
        if "file_name" not in photo:
            return jsonl.own_id(photo, place)
        named = checks.field(photo, "file_name", str, place)
        path = self.files.find(named, place / "file_name")
        return self.keep(jsonl.own_id(photo, place) if "id" in photo else path, path, place)

    def keep(self, name: str, path: str, place: Place) -> str:
        """Remembers whose file it is; an id has one."""
        other = self.file_of.setdefault(name, path)
        if other != path:
            raise BadRecordError(
                f"{place}: photo {name!r} is {path!r} here and {other!r} before; give them two ids"
            )
        return name


def parse(record: Any, number: int, place: Place, table: str, known: Known) -> list[Dialogue]:
    """The dialogues of line `number` of a table.

    Raises `BadRecordError` for unknown or missing fields, other types, sizes beyond the limits,
    photos that are not there, boxes outside their photo, and lines that contradict each other.
    """
    record = typed(record, dict, place)
    if "turns" in record:
        seen = known.dialogues.setdefault(table, {})
        return [jsonl.parse(record, number, place, seen, known.photo_id)]
    only(record, (*FILE, *CAPTIONS, *LABELS, *_OTHERS, "turns"), place)
    key = _one_of(record, FILE, place)
    if key is None:
        raise BadRecordError(f"{place / FILE[0]}: it is missing")
    path = known.files.find(checks.field(record, key, str, place), place / key)
    captions = _captions(record, place)
    boxes = boxes_of(record, place)
    labels = [*_labels(record, place), *(box.label for box in boxes)]
    url = checks.field(record, "url", str, place) if "url" in record else ""
    photo = Photo(path, tuple(dict.fromkeys(labels)), url, boxes)
    first = _number_before(photo, captions, place, known)
    known.keep(path, path, place)
    share = Turn(0, "", (photo,))
    if not captions:
        return [Dialogue(f"{path}#0", (share,))]
    return [
        Dialogue(f"{path}#{k}", (Turn(0, caption), share))
        for k, caption in enumerate(captions, start=first)
    ]


def _number_before(photo: Photo, captions: list[str], place: Place, known: Known) -> int:
    """How many captions the photo had on the lines before."""
    content, count, line = known.told.get(photo.id, (hash(photo), 0, ""))
    if line and not (captions and count):
        raise BadRecordError(
            f"{place}: photo {photo.id!r} was described before, in {line}; a second line may only "
            "add captions to a photo that has some"
        )
    if content != hash(photo):
        raise BadRecordError(
            f"{place}: photo {photo.id!r} has other labels, objects or another url than in {line}; "
            "write the same on both lines, or all on one"
        )
    known.told[photo.id] = (content, count + len(captions), line or place.record)
    return count


def _one_of(record: Mapping[str, Any], keys: tuple[str, ...], place: Place) -> str | None:
    """The one of several names of a field that the record uses."""
    used = [key for key in keys if key in record]
    if len(used) > 1:
        raise BadRecordError(f"{place}: {used[0]!r} and {used[1]!r} say the same; use one of them")
    return used[0] if used else None


def _captions(record: Mapping[str, Any], place: Place) -> list[str]:
    key = _one_of(record, CAPTIONS, place)
    if key is None:
        return []
    if key == "captions":
        captions = list(jsonl.texts(record, key, place))
    elif key == "boxes":  # the texts in the places of a meme
        captions = ["\n".join(jsonl.texts(record, key, place))]
    else:
        captions = [checks.field(record, key, str, place)]
    for k, caption in enumerate(captions):
        if not caption.strip():
            here = place / key / k if key == "captions" else place / key
            raise BadRecordError(f"{here}: it is empty; leave it out")
    return captions


def _labels(record: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    key = _one_of(record, LABELS, place)
    if key == "category":
        return (checks.field(record, key, str, place),)
    return jsonl.texts(record, "labels", place)


def boxes_of(record: Mapping[str, Any], place: Place) -> tuple[Box, ...]:
    """Objects in pixels of the original photo, as fractions of its size."""
    objects = checks.field(record, "objects", list, place) if "objects" in record else []
    sides = {key: _side(record, key, place) for key in ("width", "height") if key in record}
    if not objects:
        return ()
    for key in ("width", "height"):
        if key not in sides:
            raise BadRecordError(
                f"{place / key}: it is missing; boxes are in pixels of the original photo, whose "
                "size must be known"
            )
    inside = place / "objects"
    return tuple(
        _box(item, sides["width"], sides["height"], inside / k)
        for k, item in enumerate(at_most(objects, MAX_LABELS, inside))
    )


def _side(record: Mapping[str, Any], key: str, place: Place) -> int:
    side = checks.field(record, key, int, place)
    if not 1 <= side <= _MAX_SIDE:
        raise BadRecordError(f"{place / key}: it should be from 1 to {_MAX_SIDE:,} and is {side:,}")
    return side


def _box(item: Any, width: int, height: int, place: Place) -> Box:
    item = typed(item, dict, place)
    only(item, ("label", "bbox_xywh"), place)
    label = checks.field(item, "label", str, place)
    inside = place / "bbox_xywh"
    numbers = checks.field(item, "bbox_xywh", list, place)
    if len(numbers) != 4 or not all(_is_number(number) for number in numbers):
        raise BadRecordError(f"{inside}: it should be four numbers: left, top, width, height")
    x, y, w, h = map(float, numbers)
    # Coordinates are rounded, so that a box may stand over by a part of a pixel.
    left, right = _clipped(x, x + w, width, inside)
    top, bottom = _clipped(y, y + h, height, inside)
    return Box(label, left, top, right - left, bottom - top)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= _MAX_SIDE
        and math.isfinite(value)
    )


def _clipped(low: float, high: float, side: int, place: Place) -> tuple[float, float]:
    if low < -1 or high > side + 1:
        raise BadRecordError(
            f"{place}: it reaches from {low:g} to {high:g}, and the photo from 0 to {side}"
        )
    low, high = max(low, 0.0), min(high, float(side))
    if high <= low:
        raise BadRecordError(f"{place}: it has no area")
    return low / side, high / side
