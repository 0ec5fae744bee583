"""Reads photos with boxes from JSON lines, as COCO's photos come and as `photo_folder` takes them.

{"file_name": "a.jpg", "width": 640, "height": 480,
 "objects": [{"label": "dog", "bbox_xywh": [10, 20, 300, 200]}]}
"""

from __future__ import annotations

from collections.abc import Iterator

from etils import epath

from mmjax.curation.bad_rows import BadRows
from mmjax.data.schema import Photo
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError, field, parse_json, typed
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.photo_folder.record import boxes_of


def read_table(path: epath.PathLike, bad: BadRows) -> Iterator[Photo]:
    """Photos with their boxes as fractions of their size; a photo without objects has none.

    Args:
      bad: counts lines with missing fields, other types, boxes outside their photo, and photos
        that were described before.

    Raises:
      UserError: the file cannot be read, is empty, or has one bad line too many.
    """
    path = epath.Path(path)
    seen: dict[str, str] = {}
    for _, place, line in jsonl.lines(path, jsonl.digest(path)):
        try:
            record = typed(parse_json(line, place.record), dict, place)
            name = field(record, "file_name", str, place)
            if name in seen:
                raise BadRecordError(f"{place}: photo {name!r} was described in {seen[name]}")
            boxes = boxes_of(record, place)
        except BadRecordError as error:
            bad.add(str(error))
            continue
        seen[name] = place.record
        yield Photo(name, boxes=boxes)
    if not seen:
        raise UserError(f"{path} holds no photo that can be used: check the file.")
