"""Features of photos' regions as others publish them: one big table, or a file per photo.

    *.tsv   tab separated: image_id, image_w, image_h, num_boxes, boxes, features; the last two are
            float32 numbers in base64 (Anderson et al., CVPR 2018, "bottom-up attention")
    *.npz   one per photo, named by its id, with the array "x" (or "features") [regions, width]

A region's vector is a row; the surest region is first. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import csv
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmjax.errors import UserError
from tfds_builders.base import digest_of
from tfds_builders.checks import BadRecordError
from tfds_builders.file_digests import file_digests
from tfds_builders.origin import Key, PhotoOrigin

COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
ARRAYS = ("x", "features")
MAX_REGIONS, MAX_WIDTH = 1000, 16_384
# Of one cell of a table: the largest features there may be, in base64.
_MAX_CELL = MAX_REGIONS * MAX_WIDTH * 4 // 3 * 4 + 1024


def region_files(place: str) -> PhotoOrigin:
    """The features in a folder with *.npz or *.tsv, or in one *.tsv.

    Raises:
      UserError: there is no such thing.
    """
    root = Path(place).expanduser()
    files = [root] if root.is_file() else sorted((*root.rglob("*.npz"), *root.rglob("*.tsv")))
    kinds = {file.suffix for file in files}
    if len(kinds) != 1 or not kinds <= {".npz", ".tsv"}:
        found = "both" if len(kinds) > 1 else "neither" if root.is_dir() else "no such folder"
        raise UserError(
            f"config.data.regions={place}: a folder with one .npz per photo, or .tsv tables of "
            f"them, is needed ({found})."
        )
    digests = file_digests({str(file.relative_to(root.parent)): file for file in files})

    def read(downloads: object) -> Iterator[tuple[Key, np.ndarray | BadRecordError]]:
        if kinds == {".npz"}:
            yield from ((file.stem, _archive(file)) for file in files)
            return
        seen: set[str] = set()
        for file in files:
            for number, name, regions in _table(file):
                if name in seen:
                    regions = BadRecordError(f"{file}, line {number}: photo {name} comes twice")
                seen.add(name)
                yield (
                    name if not isinstance(regions, BadRecordError) else f"{file}:{number}",
                    (regions),
                )

    return PhotoOrigin("regions", digest_of(digests.of), read)


def _archive(file: Path) -> np.ndarray | BadRecordError:
    """The array of one photo."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            name = next((name for name in ARRAYS if name in arrays), None)
            if name is None:
                return BadRecordError(f"{file} has no array {' or '.join(map(repr, ARRAYS))}")
            return checked(arrays[name], str(file))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return BadRecordError(f"{file} cannot be read: {str(error).splitlines()[0]}")


def _table(file: Path) -> Iterator[tuple[int, str, np.ndarray | BadRecordError]]:
    """(line, photo, features) of each line."""
    csv.field_size_limit(min(sys.maxsize, _MAX_CELL))
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE)
            for number, row in enumerate(rows, start=1):
                yield number, row["image_id"] or "", _decoded(row, f"{file}, line {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error


def _decoded(row: dict[str, str | None], place: str) -> np.ndarray | BadRecordError:
    if None in row or None in row.values():
        return BadRecordError(f"{place} has not the columns {', '.join(COLUMNS)}")
    try:
        count = int(row["num_boxes"])
        numbers = np.frombuffer(base64.b64decode(row["features"], validate=True), np.float32)
    except (ValueError, binascii.Error) as error:
        return BadRecordError(f"{place}: {error}")
    if count < 1 or len(numbers) % count:
        return BadRecordError(f"{place}: {len(numbers)} numbers are not {count} regions")
    return checked(numbers.reshape(count, -1), place)


def checked(regions: np.ndarray, place: str) -> np.ndarray | BadRecordError:
    """The features themselves, as float16 or float32, if they can be used."""
    if regions.ndim != 2 or not 0 < len(regions) <= MAX_REGIONS:
        return BadRecordError(f"{place}: its shape is {regions.shape}, not [regions, width]")
    if not 0 < regions.shape[1] <= MAX_WIDTH:
        return BadRecordError(
            f"{place}: a region has {regions.shape[1]} numbers, the limit is {MAX_WIDTH}"
        )
    if not np.issubdtype(regions.dtype, np.floating):
        return BadRecordError(f"{place}: its numbers are {regions.dtype}, not floats")
    if not np.isfinite(regions).all():
        return BadRecordError(f"{place}: it holds NaN or infinity")
    return regions if regions.dtype == np.float16 else regions.astype(np.float32)
