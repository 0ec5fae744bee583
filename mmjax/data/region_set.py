"""Features of photos' regions in a prepared set: random access by the photo's id."""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from mmjax.data.photos import StoredSet
from mmjax.data.records import Records
from mmjax.data.schema import RegionFile


@dataclasses.dataclass(frozen=True, slots=True)
class StoredRegions:
    """The features of one photo (a `RegionFile`)."""

    records: Records = dataclasses.field(compare=False, repr=False)
    row: int = dataclasses.field(compare=False)
    digest: str

    def read(self) -> np.ndarray:
        return _unpacked(self.records[self.row]["data"])


@dataclasses.dataclass(frozen=True)
class ArrayRegions:
    """Features in memory (a `RegionFile`)."""

    array: np.ndarray = dataclasses.field(compare=False, repr=False)
    digest: str

    def read(self) -> np.ndarray:
        return self.array


class RegionSet(StoredSet[RegionFile]):
    """id -> where the features of its regions are."""

    split = "regions"

    def stored(self, records: Records, row: int, digest: str) -> RegionFile:
        return StoredRegions(records, row, digest)


def _unpacked(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)
