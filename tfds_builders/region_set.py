"""Features of photos' regions as a dataset of their own, as the photos are (`photo_set`)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.base import CheckedBuilder
from tfds_builders.origin import Key, Origin, PhotoOrigin

SPLIT = "regions"


class RegionSetBuilder(CheckedBuilder):
    """One split of {"id", "data": the features in numpy's own format}."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    RECORDS = "photos' regions"
    name = "regions"

    def __init__(self, *, data_dir: Any, regions: PhotoOrigin, max_bad_records: int = 0):
        origin = Origin(
            f"{regions.name}-{regions.digest[:16]}",
            regions.digest,
            lambda content, split: regions.read(content),
            (SPLIT,),
        )
        super().__init__(data_dir=data_dir, origin=origin, max_bad_records=max_bad_records)

    def features(self) -> tfds.features.FeaturesDict:
        return tfds.features.FeaturesDict(
            {"id": tfds.features.Text(), "data": tfds.features.Scalar(np.object_)}
        )

    def record(self, key: Key, item: np.ndarray) -> Mapping[str, Any]:
        data = io.BytesIO()
        np.save(data, item, allow_pickle=False)
        return {"id": key, "data": data.getvalue()}
