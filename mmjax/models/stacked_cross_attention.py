"""Stacked cross attention: how well a text fits a photo, from its words and regions (SCAN).

Lee et al., "Stacked Cross Attention for Image-Text Matching" (ECCV 2018), section 3.2 and 3.3,
with the LeakyReLU of their code where the paper has a ReLU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.parallel.scores import Score, Scores, Tree, accumulated

SLOPE = 0.1  # of the LeakyReLU below 0
EPSILON = 1e-8  # added to a norm, or its least value
SHORTEST = 16  # words: texts up to here are scored together


@dataclasses.dataclass(frozen=True)
class StackedCrossAttention(Score):
    """Rows {"words": [r, W, D], "mask": bool [r, W]}, columns {"regions": [c, R, D], "mask": ...}.

    One side looks for what it needs in the other one: words in regions ("t-i") or regions in words
    ("i-t"). A seeker q gives each context element k the weight softmax_k(smoothing * s_kq), s_kq
    being [the dot product]_+, divided by its length over all seekers; and is compared, by cosine,
    with the average that it sees so. What the seekers find is pooled to the score. Masked words and
    regions do not exist, whatever they hold; a text or photo without any has the score 0.

    The average itself is never made, only its product with the seeker, sum_k a_kq (k . q), and its
    square, sum_kl a_kq a_lq (k . l): so a pair needs R x W numbers, and none of width D.

    Attributes:
      direction: who looks for whom.
      pooling: of the cosines: their mean, sum or maximum, or log sum exp(lse_smoothing * cosine) /
        lse_smoothing.
      smoothing: of the attention; lambda_1 in the paper, lambda_softmax in its code.
      lse_smoothing: of "lse"; lambda_2 and lambda_lse.
    """

    direction: Literal["t-i", "i-t"] = "t-i"
    pooling: Literal["avg", "lse", "max", "sum"] = "avg"
    smoothing: float = 9.0
    lse_smoothing: float = 6.0

    def __post_init__(self):
        if self.direction not in ("t-i", "i-t"):
            raise ValueError(f"direction={self.direction!r} is neither 't-i' nor 'i-t'")
        if self.pooling not in ("avg", "lse", "max", "sum"):
            raise ValueError(f"pooling={self.pooling!r} is none of avg, lse, max, sum")

    def __call__(self, rows: Tree, columns: Tree) -> Scores:
        words = Side(rows["words"], rows["mask"])
        regions = Side(columns["regions"], columns["mask"])
        if self.direction == "t-i":
            return self._compared(words, regions).T
        return self._compared(regions, words)

    def _compared(self, seekers: Side, context: Side) -> Float[Array, "a b"]:
        """Every context (a) with all who seek in it (b); 0 without any seeker or context."""
        found = self._pooled(_cosines(self.smoothing, seekers, context), seekers.mask)
        return jnp.where(context.mask.any(-1)[:, None] & seekers.mask.any(-1), found, 0)

    def _pooled(
        self, cosines: Float[Array, "a b Q"], mask: Bool[Array, "b Q"]
    ) -> Float[Array, "a b"]:
        """Of the seekers that there are."""
        if self.pooling in ("avg", "sum"):
            total = jnp.where(mask, cosines, 0).sum(-1)
            return total / jnp.maximum(mask.sum(-1), 1) if self.pooling == "avg" else total
        # Large numbers and not infinity, whose derivatives would be none.
        if self.pooling == "max":
            return jnp.where(mask, cosines, -1e30).max(-1)
        exponents = jnp.where(mask, self.lse_smoothing * cosines, -1e30)
        return jax.nn.logsumexp(exponents, axis=-1) / self.lse_smoothing

    def alike(self, rows: Tree) -> Iterator[tuple[np.ndarray, Tree]]:
        """Texts of up to 16, 32, 64, ... words, each part as long as its own words need."""
        longest = rows["mask"].shape[1]
        places = np.arange(1, longest + 1)
        length = np.where(rows["mask"], places, 0).max(1, initial=0)
        size = np.maximum(2 ** np.ceil(np.log2(np.maximum(length, 1))), SHORTEST).astype(int)
        for W in np.unique(size):
            (numbers,) = np.nonzero(size == W)
            yield numbers, jax.tree.map(lambda x, n=numbers, W=W: x[n][:, :W], rows)


class Side(NamedTuple):
    """Words or regions, [n, L, D], and which of them there are, bool [n, L]."""

    vectors: Float[Array, "n L D"]
    mask: Bool[Array, "n L"]


def _cosines(smoothing: float, seekers: Side, context: Side) -> Float[Array, "a b Q"]:
    """Of every seeker with what it sees of every context; arrays [a, K, b, Q] between."""
    queries, there = _real(seekers), _real(context)  # [b, Q, D], [a, K, D]
    s = _product("akd,bqd->akbq", there, queries)
    weights = jax.nn.leaky_relu(s, SLOPE)  # 0 at masked seekers, whose vectors are 0
    weights = weights / (_root(jnp.square(weights).sum(-1, keepdims=True)) + EPSILON)
    # A large number and not infinity: without any context the sum must stay above 0.
    weights = jnp.where(context.mask[:, :, None, None], smoothing * weights, -1e30)
    weights = jax.nn.softmax(weights, axis=1)
    along = (weights * s).sum(1)  # [a, b, Q]
    gram = _product("akd,ald->akl", there, there)
    square = (weights * _product("akl,albq->akbq", gram, weights)).sum(1)
    lengths = _root(jnp.square(queries.astype(s.dtype)).sum(-1)) * _root(square)
    return along / jnp.maximum(lengths, EPSILON)


def _product(axes: str, x: Array, y: Array) -> Array:
    dtype = accumulated(x, y)
    return jnp.einsum(axes, x, y, precision="highest", preferred_element_type=dtype)


def _root(square: Array) -> Array:
    """The square root, 0 below 0 (rounding); its derivative there is 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _real(side: Side) -> Float[Array, "n L D"]:
    # where, and not a product: what stands at padding is undefined and may be NaN.
    return jnp.where(side.mask[..., None], side.vectors, 0)
