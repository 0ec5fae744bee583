"""Boxes of a photo's objects as regions: chosen, and moved with the pixels.

Boxes are rows (left, top, right, bottom), fractions of the width and the height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from mmjax.data.images import WHOLE, Part
from mmjax.data.schema import Box

# What is written with some decimals, stored in float32 and added up may stand over by so much.
_ROUNDING = 1e-6


class BadBoxError(ValueError):
    """A box cannot be used; the message says which and why, in one clause."""


def largest_boxes(boxes: Sequence[Box], count: int) -> Float[np.ndarray, "n 4"]:
    """At most `count` of them, the largest first, float64.

    Raises:
      BadBoxError: NaN or infinity among the numbers, no area, or beyond the photo.
    """
    corners = [_corners(box, number) for number, box in enumerate(boxes)]
    # Then by place: in whatever order a dataset has them, the same boxes are the same regions.
    corners.sort(key=lambda c: (-(c[2] - c[0]) * (c[3] - c[1]), c))
    return np.array(corners[:count], np.float64).reshape(-1, 4)


def box_regions(
    boxes: Float[np.ndarray, "n 4"], part: Part, count: int
) -> tuple[Float[np.ndarray, "R 4"], Bool[np.ndarray, " R"]]:
    """What is looked at where only a part of the photo is seen: all of it, and then the boxes.

    Args:
      boxes: as of `largest_boxes`, in the photo.

    Returns:
      float32 [count, 4], in the part, zeros beyond what there is; and which of them there are.
      Boxes outside of the part are left out, others end where it ends.
    """
    start, end = np.array(part[:2] * 2), np.array(part[2:] * 2)
    seen = np.clip((boxes - start) / (end - start), 0, 1)
    seen = seen[(seen[:, 2:] - seen[:, :2] > _ROUNDING).all(axis=1)]
    seen = np.concatenate([[WHOLE], seen])[:count]
    regions = np.zeros((count, 4), np.float32)
    regions[: len(seen)] = seen
    return regions, np.arange(count) < len(seen)


def _corners(box: Box, number: int) -> tuple[float, float, float, float]:
    name = f"box {number} ({box.label!r})"
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    if not all(map(math.isfinite, corners)):
        raise BadBoxError(f"{name} holds NaN or infinity")
    if not (box.width > 0 and box.height > 0):
        raise BadBoxError(f"{name} has no area: it is {box.width:g} wide and {box.height:g} high")
    if min(corners) < -_ROUNDING or max(corners) > 1 + _ROUNDING:
        left, top, right, bottom = (f"{x:g}" for x in corners)
        raise BadBoxError(
            f"{name} is not within the photo: it reaches from {left} to {right} of its width and "
            f"from {top} to {bottom} of its height"
        )
    return corners
