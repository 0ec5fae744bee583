"""Reads Open Images' files: boxes, names of classes, and the hierarchy of the classes.

They are at https://storage.googleapis.com/openimages/web/download_v7.html: for instance
`oidv6-train-annotations-bbox.csv`, `class-descriptions-boxable.csv` and
`bbox_labels_600_hierarchy.json`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from mmjax.curation.bad_rows import BadRows
from mmjax.curation.whitelist import read_json
from mmjax.data.schema import Box, Photo
from mmjax.errors import UserError

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_MAX_ROW = 2**16


def read_class_names(path: epath.PathLike) -> dict[str, str]:
    """Class -> its name: "/m/0bt9lr" -> "Dog". A heading `LabelName,DisplayName` may stand above.

    Raises UserError for a row without a name, and for a class that stands twice.
    """
    names: dict[str, str] = {}
    for line, row in _rows(path):
        if line == 1 and row[0] == "LabelName":
            continue
        if len(row) != 2 or not all(row):
            raise UserError(f"{path}, line {line} should be a class and its name: correct it.")
        if row[0] in names:
            raise UserError(f"{path}, line {line}: class {row[0]!r} stands there twice.")
        names[row[0]] = row[1]
    if not names:
        raise UserError(f"{path} names no class: get it again.")
    return names


def read_hierarchy(path: epath.PathLike, names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Name of every class -> the names of all classes above it.

    Parts are passed over: a bicycle wheel is no kind of bicycle. A class may have several above it.
    Raises UserError for a file of another form, and for a class that `names` does not have.
    """
    above: dict[str, set[str]] = {name: set() for name in names.values()}

    def walk(node: Any, higher: frozenset[str], root: bool = False) -> None:
        below = node.get("Subcategory", []) if isinstance(node, dict) else None
        if not isinstance(below, list) or not isinstance(node.get("LabelName"), str):
            raise UserError(
                f"{path} should be {{LabelName, Subcategory: [...]}} at every depth: get it again."
            )
        name = names.get(node["LabelName"])
        if name is None and not root:  # the root, "Entity", is no class
            raise UserError(
                f"{path}: class {node['LabelName']!r} has no name: take the file of names that "
                "belongs to it."
            )
        if name is not None:
            above[name] |= higher
            higher |= {name}
        for child in below:
            walk(child, higher)

    try:
        walk(read_json(epath.Path(path)), frozenset(), root=True)
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply: get it again.") from error
    return {name: frozenset(higher) for name, higher in above.items()}


def read_boxes(path: epath.PathLike, names: Mapping[str, str], bad: BadRows) -> Iterator[Photo]:
    """Photos with their boxes, in the order of the file, one photo in memory at a time.

    Labels of boxes are the classes' names; a class without a name keeps its own ("/m/...").

    Args:
      bad: counts rows of another number of columns, coordinates outside 0 to 1, and boxes whose
        XMin is above XMax, or YMin above YMax.

    Raises:
      UserError: columns are missing, no row, one bad row too many, or the rows of a photo do not
        stand together.
    """
    rows = _rows(path)
    _, heading = next(rows, (1, []))
    missing = [name for name in COLUMNS if name not in heading]
    if missing:
        raise UserError(
            f"{path}, line 1 has no column {', '.join(missing)}: the columns "
            f"{','.join(COLUMNS)} are needed."
        )
    place = [heading.index(name) for name in COLUMNS]
    seen: set[str] = set()
    current, boxes = "", []
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(heading):
            bad.add(f"{where}: {len(row)} columns, and the heading has {len(heading)}")
            continue
        photo, label, *corners = (row[i] for i in place)
        box = _box(names.get(label, label), corners)
        if not photo or not label or isinstance(box, str):
            bad.add(f"{where}: {box if isinstance(box, str) else 'ImageID or LabelName is empty'}")
            continue
        if photo != current:
            if current:
                yield Photo(current, boxes=tuple(boxes))
            if photo in seen:
                raise UserError(
                    f"{where}: other photos stand between the rows of {photo!r}: sort the file by "
                    "ImageID."
                )
            seen.add(photo)
            current, boxes = photo, []
        boxes.append(box)
    if not current:
        raise UserError(f"{path} holds no box: get it again.")
    yield Photo(current, boxes=tuple(boxes))


def _box(label: str, corners: Sequence[str]) -> Box | str:
    """The box, or what is wrong with it."""
    try:
        x_min, x_max, y_min, y_max = map(float, corners)
    except ValueError:
        return f"the corners {','.join(corners)[:80]} are no four numbers"
    for name, low, high in (("X", x_min, x_max), ("Y", y_min, y_max)):
        # NaN fails every comparison.
        if not (math.isfinite(low) and 0 <= low <= high <= 1):
            return f"{name}Min {low:g} and {name}Max {high:g} are not in order between 0 and 1"
    return Box(label, x_min, y_min, x_max - x_min, y_max - y_min)


def _rows(path: epath.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with the number of their line."""
    try:
        with epath.Path(path).open("rb") as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.reader(_bounded(lines, path))
            for row in reader:
                if row:
                    yield reader.line_num, row
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check it.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no table of comma-separated UTF-8 text: {error}.") from error


def _bounded(lines: io.TextIOWrapper, path: epath.PathLike) -> Iterator[str]:
    number = 0
    while line := lines.readline(_MAX_ROW + 1):
        number += 1
        if len(line) > _MAX_ROW:
            raise UserError(
                f"{path}, line {number} has more than {_MAX_ROW:,} characters: get the file again."
            )
        yield line
