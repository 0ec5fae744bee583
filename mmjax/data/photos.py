"""The photos of a prepared set: random access by id to encoded photos.

Photos are a set of their own beside the dialogues, because one photo is shared in many of them,
and because a run that reads texts alone should not prepare, or read, a single pixel.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from etils import epath

from mmjax.data.array_cache import read_arrays, write_arrays
from mmjax.data.records import Records
from mmjax.data.schema import PhotoFile

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

    def __init__(self, folder: Any, cache_dir: Any):
        """
        Args:
          folder: with the prepared records {"id", "data"}.
          cache_dir: where the table of ids and digests is kept; it is made by one pass.
        """
        self._records = Records(folder, self.split)
        self.fingerprint = self._records.fingerprint
        path = epath.Path(os.fspath(cache_dir)).expanduser() / "index"
        path /= f"{self.split}-{self.fingerprint[:24]}.npz"
        table = read_arrays(path)
        if table is None:
            table = self._read_all()
            write_arrays(path, table)
        ids = table["ids"].tobytes().decode().split("\0") if len(self._records) else []
        self._digests = table["digests"]
        self._rows = {name: row for row, name in enumerate(ids)}

    def __getitem__(self, name: str) -> T:
        row = self._rows[name]
        return self.stored(self._records, row, self._digests[row].tobytes().hex())

    @abc.abstractmethod
    def stored(self, records: Records, row: int, digest: str) -> T:
        """The entry of a record."""

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


@dataclasses.dataclass(frozen=True)
class BytesPhoto:
    """A photo in memory (a `PhotoFile`): tests, and photos that were made up."""

    data: bytes = dataclasses.field(repr=False)

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.data, digest_size=16).hexdigest()

    def read(self) -> bytes:
        return self.data
