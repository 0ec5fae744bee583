"""The photos of a dataset as a dataset of their own, prepared only when a model wants pixels.

Bytes are kept as they came: nothing is lost by encoding twice, and a digest of them says what a
model saw. Each one is decoded once here, so that training meets no photo that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from mmjax.data.images import BadImageError, check_image
from tfds_builders.base import CheckedBuilder
from tfds_builders.checks import BadRecordError
from tfds_builders.origin import Key, Origin, PhotoOrigin

SPLIT = "photos"


class PhotoSetBuilder(CheckedBuilder):
    """One split of {"id", "data": the encoded photo}."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    RECORDS = "photos"
    name = "photos"

    def __init__(
        self, *, data_dir: Any, dataset: str, photos: PhotoOrigin, max_bad_records: int = 0
    ):
        downloads = epath.Path(data_dir).expanduser() / "downloads" / "photos" / dataset

        def read(content: Any, split: str) -> Iterator[tuple[Key, bytes | BadRecordError]]:
            downloads.mkdir(parents=True, exist_ok=True)
            return photos.read(downloads)

        config = f"{dataset}-{photos.name}-{photos.digest[:16]}"
        origin = Origin(config, photos.digest, read, (SPLIT,))
        super().__init__(data_dir=data_dir, origin=origin, max_bad_records=max_bad_records)

    def features(self) -> tfds.features.FeaturesDict:
        return tfds.features.FeaturesDict(
            {"id": tfds.features.Text(), "data": tfds.features.Scalar(np.object_)}
        )

    def record(self, key: Key, item: bytes) -> Mapping[str, Any]:
        try:
            check_image(item)
        except BadImageError as error:
            raise BadRecordError(f"photo {key}: {error}") from error
        return {"id": key, "data": item}
