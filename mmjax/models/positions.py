"""How a transformer knows where a token stands: vectors that are added, or biases on attention."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmjax.models.layers import INITIAL_STD, Table, normal_init


class LearnedPositions(nn.Module):
    """One learned vector per absolute position, at most `max_positions` of them."""

    max_positions: int
    std: float = INITIAL_STD
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, positions: Int[Array, "*n"], width: int) -> Float[Array, "*n D"]:
        table = Table(
            self.max_positions, width, "position", std=self.std, dtype=self.dtype, name="table"
        )
        return table(positions)


class SinusoidalPositions(nn.Module):
    """A fixed vector per absolute position, at most `max_positions` (Vaswani et al. 2017, 3.5).

    Places 2i and 2i + 1 hold the sine and the cosine of position / 10000^(2i / D).
    """

    max_positions: int
    dtype: Any = jnp.float32

    def __call__(self, positions: Int[Array, "*n"], width: int) -> Float[Array, "*n D"]:
        # In float64: far from 0 the float32 angle is a poor one.
        rates = 10000.0 ** (-np.arange(0, width, 2) / width)
        angles = np.arange(self.max_positions)[:, None] * rates
        table = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        table = table.reshape(self.max_positions, -1)[:, :width].astype(np.float32)
        return jnp.take(table, positions, axis=0).astype(self.dtype)


class RelativePositions(nn.Module):
    """A learned bias per head on how far a key is from the query (Raffel et al. 2020, 2.1).

    Distances fall into `buckets`: half of them hold one distance each, the others grow
    logarithmically up to `max_distance`, beyond which all are equal. Two-sided, half of all are
    for keys to the right; one-sided (a causal decoder), those count as distance 0.
    """

    buckets: int
    max_distance: int
    two_sided: bool
    heads: int
    std: float = INITIAL_STD

    def setup(self):
        self.embedding = self.param(
            "embedding",
            nn.with_logical_partitioning(normal_init(self.std), ("buckets", "heads")),
            (self.buckets, self.heads),
            jnp.float32,
        )

    def __call__(self, length: int) -> Float[Array, "H L L"]:
        distance = jnp.arange(length)[None] - jnp.arange(length)[:, None]  # key - query
        return self.at(distance, length)

    def at(self, distance: Int[Array, "Q M"], length: int) -> Float[Array, "H Q M"]:
        """The biases at distances between -`length` and `length`, both excluded."""
        by_distance = self.embedding[self.bucket(np.arange(1 - length, length))]  # [2 L - 1, H]
        return by_distance.T[:, distance + length - 1]

    def bucket(self, distance: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The bucket of each distance, key's place minus query's."""
        buckets, first = self.buckets, np.zeros_like(distance)
        if self.two_sided:
            buckets //= 2
            first = np.where(distance > 0, buckets, 0)
            distance = np.abs(distance)
        else:
            distance = np.maximum(-distance, 0)
        exact = buckets // 2
        # In float32, as the models were trained: at a bucket's edge rounding decides.
        share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
        share = share / np.float32(np.log(self.max_distance / exact)) * np.float32(buckets - exact)
        wide = np.minimum(exact + share.astype(np.int32), buckets - 1)
        return first + np.where(distance < exact, distance, wide)
