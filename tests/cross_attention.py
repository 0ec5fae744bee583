"""A score over trees that is no dot product: SCAN's, from words to regions, averaged."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mmjax.parallel.ring import Score, Scores, Tree


@dataclasses.dataclass(frozen=True)
class CrossAttention(Score):
    """SCAN t-i AVG (Lee et al., ECCV 2018): each word looks for its regions of the image.

    Rows {"regions": [B, R, D], "there": bool [B, R]}, columns {"words": [B, W, D], "said": bool
    [B, W]}.
    """

    smoothing: float = 9.0

    def __call__(self, rows: Tree, columns: Tree) -> Scores:
        regions, words = rows["regions"], columns["words"]
        there, said = rows["there"][:, None, :, None], columns["said"][None, :, None, :]
        s = jnp.einsum("ikd,jwd->ijkw", regions, words, precision="highest")  # [r, c, R, W]
        s = jnp.where(said, jax.nn.leaky_relu(s, 0.1), 0)
        s = s / (_norm(s)[..., None] + 1e-8)  # of a region, over words
        # A large number and not infinity: without any region the sum must stay above 0.
        attention = jax.nn.softmax(jnp.where(there, self.smoothing * s, -1e30), axis=2)
        seen = jnp.einsum("ijkw,ikd->ijwd", attention, regions, precision="highest")
        product = jnp.einsum("ijwd,jwd->ijw", seen, words, precision="highest")
        cosine = product / jnp.maximum(_norm(seen) * _norm(words), 1e-8)  # [r, c, W]
        said = columns["said"][None]
        return jnp.where(said, cosine, 0).sum(-1) / jnp.maximum(said.sum(-1), 1)


def _norm(x: Array) -> Array:
    """Length of the last axis; its derivative at 0 is 0."""
    square = jnp.square(x).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
