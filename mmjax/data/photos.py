"""The photos of a prepared set: random access by id to encoded photos.

Photos are a set of their own beside the dialogues, because one photo is shared in many of them,
and because a run that reads texts alone should not prepare, or read, a single pixel.

For controls a set can also be had "blank", every photo the same grey, or "shuffled", every photo
with the pixels of another one: what a model finds then, it did not see.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from etils import epath
from PIL import Image

from mmjax.data.array_cache import read_arrays, write_arrays
from mmjax.data.records import Records
from mmjax.data.schema import PhotoFile
from mmjax.errors import UserError

SPLIT = "photos"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPhoto:
    """One photo of a set (a `PhotoFile`)."""

    records: Records = dataclasses.field(compare=False, repr=False)
    row: int = dataclasses.field(compare=False)
    digest: str

    def read(self) -> bytes:
        return self.records[self.row]["data"]


class StoredSet(Mapping[str, T]):
    """id -> where what is stored of a photo is. `fingerprint` stands for the content of all.

    A kind of content says in which split of records it is, and what an entry is.
    """

    split: ClassVar[str]

    def __init__(self, folder: Any, cache_dir: Any, pixels: str = "real"):
        """
        Args:
          folder: with the prepared records {"id", "data"}.
          cache_dir: where the table of ids and digests is kept; it is made by one pass.
          pixels: "real", "blank" or "shuffled".
        """
        self._records, self._blank = Records(folder, self.split), pixels == "blank"
        content = self._records.fingerprint
        self.fingerprint = content if pixels == "real" else f"{content}-{pixels}"
        path = epath.Path(os.fspath(cache_dir)).expanduser() / "index"
        path /= f"{self.split}-{content[:24]}.npz"
        table = read_arrays(path)
        if table is None:
            table = self._read_all()
            write_arrays(path, table)
        ids = table["ids"].tobytes().decode().split("\0") if len(self._records) else []
        self._digests = table["digests"]
        rows = shuffled_rows(self._digests) if pixels == "shuffled" else range(len(ids))
        self._rows = {name: int(row) for name, row in zip(ids, rows, strict=True)}

    def __getitem__(self, name: str) -> T:
        row = self._rows[name]
        if self._blank:
            return self.blank()
        return self.stored(self._records, row, self._digests[row].tobytes().hex())

    def stored(self, records: Records, row: int, digest: str) -> T:
        """The entry of a record."""
        raise NotImplementedError

    def blank(self) -> T:
        """The entry that says nothing."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _read_all(self) -> dict[str, np.ndarray]:
        names, digests = [], np.zeros((len(self._records), 16), np.uint8)
        for row in range(len(self._records)):
            record = self._records[row]
            names.append(record["id"])
            digest = hashlib.blake2b(record["data"], digest_size=16).digest()
            digests[row] = np.frombuffer(digest, np.uint8)
        return {"ids": np.frombuffer(b"\0".join(names), np.uint8), "digests": digests}


class PhotoSet(StoredSet[PhotoFile]):
    """id -> where its pixels are."""

    split = SPLIT

    def stored(self, records: Records, row: int, digest: str) -> PhotoFile:
        return StoredPhoto(records, row, digest)

    def blank(self) -> PhotoFile:
        return BLANK


@dataclasses.dataclass(frozen=True)
class BytesPhoto:
    """A photo in memory (a `PhotoFile`): tests, and photos that were made up."""

    data: bytes = dataclasses.field(repr=False)

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.data, digest_size=16).hexdigest()

    def read(self) -> bytes:
        return self.data


def _grey() -> BytesPhoto:
    """One photo of the mean colour of ImageNet: zero once it is normalised."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (124, 116, 104)).save(data, "PNG")
    return BytesPhoto(data.getvalue())


BLANK = _grey()


def shuffled_rows(digests: np.ndarray) -> np.ndarray:
    """For each photo another one whose pixels it gets; photos with equal content stay equal.

    Args:
      digests: uint8 [N, 16], of the contents.

    Returns:
      int64 [N].

    Raises:
      UserError: all photos are the same.
    """
    _, first, content = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise UserError(
            "config.data.pixels=shuffled needs photos that differ: there are none to exchange."
        )
    # One cycle through a random order: nobody keeps its own.
    order = np.random.default_rng(0).permutation(len(first))
    other = np.empty(len(first), np.int64)
    other[order] = np.roll(order, 1)
    return first[other[content.reshape(-1)]]
