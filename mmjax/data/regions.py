"""Regions of a photo: feature vectors of the objects that a detector found in it."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from mmjax.config import limited
from mmjax.data.schema import RegionFile


class BadRegionsError(ValueError):
    """The features cannot be used; the message says why, in one clause."""


@dataclasses.dataclass(frozen=True)
class RegionOptions:
    """Attributes:
    count: regions of a photo that are seen, its first ones; fewer are filled up. Of boxes: the
      whole photo and the largest ones.
    dim: width of a region's vector, where it comes with the photo.
    """

    count: int = limited(36, low=1, high=1000)
    dim: int = limited(2048, low=1)


def read_regions(
    file: RegionFile, options: RegionOptions
) -> tuple[Float[np.ndarray, "R F"], Bool[np.ndarray, " R"]]:
    """float32 [count, dim], zeros beyond what there is, and which of them there are.

    Raises:
      BadRegionsError: none at all, of another width, or NaN or infinity among the numbers.
    """
    found = np.asarray(file.read())
    if found.ndim != 2 or not len(found) or found.shape[1] != options.dim:
        raise BadRegionsError(f"its shape is {found.shape}, not [regions, {options.dim}]")
    found = found[: options.count].astype(np.float32)
    if not np.isfinite(found).all():
        raise BadRegionsError("it holds NaN or infinity")
    regions = np.zeros((options.count, options.dim), np.float32)
    regions[: len(found)] = found
    return regions, np.arange(options.count) < len(found)
