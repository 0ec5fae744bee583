"""The small parts every transformer is put together from: projection, table, norm, feed-forward.

They exist beside Linen's own because their kernels keep their natural rank (`[embed, heads,
head_dim]`), so that every axis can carry a logical name and be cut by its own rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmjax.parallel.rules import constrain

Initializer = Callable[..., Array]

# BERT's initial weights: Devlin et al. 2019, `initializer_range`.
INITIAL_STD = 0.02

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    # With the error function, as BERT was trained; the tanh form differs by up to 1e-3.
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


class Projection(nn.Module):
    """A linear map from the last `len(in_axes)` axes of the input to `shape`, plus a bias.

    The kernel is `[*inputs, *shape]` with one logical name per axis.
    """

    shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch"]) -> Float[Array, "*out"]:
        n_in = len(self.in_axes)
        in_shape = x.shape[x.ndim - n_in :]
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(_normal, (*self.in_axes, *self.out_axes)),
            (*in_shape, *self.shape),
            jnp.float32,
        )
        bias = self.param(
            "bias",
            nn.with_logical_partitioning(nn.initializers.zeros_init(), self.out_axes),
            self.shape,
            jnp.float32,
        )
        contract = (tuple(range(x.ndim - n_in, x.ndim)), tuple(range(n_in)))
        y = jax.lax.dot_general(
            x.astype(self.dtype), kernel.astype(self.dtype), (contract, ((), ()))
        )
        return y + bias.astype(self.dtype)


class Table(nn.Module):
    """Rows of parameters that are looked up by index: words, positions, segments.

    Rows from `rows` on are padding up to `padded_rows`, start as zero and are never looked up.
    """

    rows: int
    width: int
    axis: str
    padded_rows: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "*n"]) -> Float[Array, "*n D"]:
        total = self.padded_rows or self.rows

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            table = _normal(key, (self.rows, self.width), dtype)
            return jnp.pad(table, ((0, total - self.rows), (0, 0)))

        table = self.param(
            "embedding",
            nn.with_logical_partitioning(init, (self.axis, "embed")),
            (total, self.width),
            jnp.float32,
        )
        # A gather from a table cut on both axes makes XLA rebuild the whole result on every
        # device; one all-gather of the width first is the cheaper order.
        table = constrain(table.astype(self.dtype), self.axis, None)
        return jnp.take(table, ids, axis=0)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in float32 (Ba et al. 2016, equation 4)."""

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        width = x.shape[-1:]
        scale = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), width
        )
        bias = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)), width
        )
        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


class LearnedPositions(nn.Module):
    """One learned vector per absolute position, at most `max_positions` of them."""

    max_positions: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, length: int, width: int) -> Float[Array, "L D"]:
        table = Table(self.max_positions, width, "position", dtype=self.dtype, name="table")
        return table(jnp.arange(length))


class FeedForward(nn.Module):
    """Two projections with an activation between them, applied to every position alone."""

    width: int
    activation: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        up = Projection((self.width,), ("embed",), ("mlp",), self.dtype, name="up")
        down = Projection((x.shape[-1],), ("mlp",), ("embed",), self.dtype, name="down")
        hidden = constrain(up(x), "batch", "length", "act_mlp")  # [B, L, M]
        return down(ACTIVATIONS[self.activation](hidden))


def _normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * INITIAL_STD


def round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple
