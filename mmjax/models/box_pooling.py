"""What a network sees within a box: the average of its grid of features there."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def pool_boxes(
    grid: Float[Array, "B h w D"], boxes: Float[Array, "B R 4"]
) -> Float[Array, "B R D"]:
    """The average over the cells of the grid, each weighing its area within the box; float32.

    Args:
      boxes: left, top, right, bottom, as fractions of the grid's width and height (0 to 1). A box
        without area has an average of 0.
    """
    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    # A cell's share of a box is its share of the box's height times that of the width.
    down, across = _shares(top, bottom, grid.shape[1]), _shares(left, right, grid.shape[2])
    weights = down[..., :, None] * across[..., None, :]  # [B, R, h, w]
    grid = grid.astype(jnp.float32)
    return jnp.einsum("brhw,bhwd->brd", weights, grid, precision="highest")


def _shares(
    start: Float[Array, "B R"], end: Float[Array, "B R"], cells: int
) -> Float[Array, "B R cells"]:
    """Of every cell between 0 and 1 in what lies between start and end."""
    first = np.arange(cells, dtype=np.float32)  # where cells begin, in cells
    start, end = start[..., None] * cells, end[..., None] * cells
    covered = jnp.maximum(jnp.minimum(end, first + 1) - jnp.maximum(start, first), 0)
    total = covered.sum(-1, keepdims=True)
    return covered / jnp.where(total > 0, total, 1)
