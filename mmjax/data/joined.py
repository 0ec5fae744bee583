"""Several sources behind each other, for what is fitted on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.schema import Dialogue, PhotoFile, RegionFile
from mmjax.data.sources import Source


class JoinedSource:
    """The dialogues of all, in the order of the sources. See `Source` for the members."""

    photos: Mapping[str, PhotoFile] | None = None
    regions: Mapping[str, RegionFile] | None = None

    def __init__(self, sources: Sequence[Source]):
        about = joined_about([{"name": s.name, "fingerprint": s.fingerprint} for s in sources])
        self.name, self.fingerprint = about["name"], about["fingerprint"]
        self._sources = tuple(sources)
        self._first = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, i: int) -> Dialogue:
        which = int(np.searchsorted(self._first, i, side="right")) - 1
        return self._sources[which][i - int(self._first[which])]


def joined_source(sources: Sequence[Source]) -> Source:
    """All of them; one alone stays what it is."""
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def joined_about(datasets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is told of several datasets together, each with "name", "fingerprint" and perhaps
    "sizes" of its splits."""
    joined = "\n".join(dataset["fingerprint"] for dataset in datasets)
    splits = sorted({split for dataset in datasets for split in dataset.get("sizes", ())})
    sizes = {split: sum(d["sizes"].get(split, 0) for d in datasets) for split in splits}
    return {
        "name": " + ".join(dataset["name"] for dataset in datasets),
        "fingerprint": hashlib.sha256(joined.encode()).hexdigest(),
        "sizes": sizes,
    }
