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
import lzma
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

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
# Of one array in an archive: the largest there may be of float64, and its header.
_MAX_ARRAY = MAX_REGIONS * MAX_WIDTH * 8 + (1 << 16)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What zipfile, its decompressors and numpy's reader of headers raise for damaged files; an
# encrypted one is a RuntimeError.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    MemoryError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


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
        seen: set[str] = set()
        for place, name, regions in _each(files):
            if name in seen:
                regions = BadRecordError(f"{place}: photo {name} comes twice")
            seen.add(name)
            yield place if isinstance(regions, BadRecordError) else name, regions

    return PhotoOrigin("regions", digest_of(digests.of), read)


def _each(files: Sequence[Path]) -> Iterator[tuple[str, str, np.ndarray | BadRecordError]]:
    """(where it stands, photo, features), of tables and of archives."""
    for file in files:
        if file.suffix == ".npz":
            yield str(file), file.stem, _archive(file)
        else:
            for number, name, regions in _table(file):
                yield f"{file}, line {number}", name, regions


def _archive(file: Path) -> np.ndarray | BadRecordError:
    """The array of one photo; its size is looked at before it is read."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            member = next((members[f"{x}.npy"] for x in ARRAYS if f"{x}.npy" in members), None)
            if member is None:
                return BadRecordError(f"{file} has no array {' or '.join(map(repr, ARRAYS))}")
            if member.file_size > _MAX_ARRAY:
                return BadRecordError(
                    f"{file}: its array has {member.file_size:,} bytes, the limit is {_MAX_ARRAY:,}"
                )
            with archive.open(member) as data:
                version = npy.read_magic(data)
                if version not in _HEADERS:  # 3.0 is for names of columns
                    return BadRecordError(f"{file}: its array is a table with named columns")
                shape, _, dtype = _HEADERS[version](data)
            if refused := _refused(shape, dtype, str(file)):
                return refused
            with archive.open(member) as data:
                return checked(npy.read_array(data, allow_pickle=False), str(file))
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return BadRecordError(f"{file} cannot be read: {reason}")


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
    if count < 1 or not len(numbers) or len(numbers) % count:
        return BadRecordError(f"{place}: {len(numbers)} numbers are not {count} regions")
    return checked(numbers.reshape(count, -1), place)


def checked(regions: np.ndarray, place: str) -> np.ndarray | BadRecordError:
    """The features themselves, as float16 or float32, if they can be used."""
    if refused := _refused(regions.shape, regions.dtype, place):
        return refused
    if regions.dtype != np.float16:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity
            regions = regions.astype(np.float32)
    if not np.isfinite(regions).all():
        return BadRecordError(f"{place}: it holds NaN or infinity")
    return regions


def _refused(shape: tuple[int, ...], dtype: np.dtype, place: str) -> BadRecordError | None:
    """Why an array cannot be one photo's regions."""
    if len(shape) != 2 or not 0 < shape[0] <= MAX_REGIONS:
        return BadRecordError(f"{place}: its shape is {shape}, not [regions, width]")
    if not 0 < shape[1] <= MAX_WIDTH:
        return BadRecordError(f"{place}: a region has {shape[1]} numbers, the limit is {MAX_WIDTH}")
    if not np.issubdtype(dtype, np.floating):
        return BadRecordError(f"{place}: its numbers are {dtype}, not floats")
    return None
