"""The small parts every transformer is put together from: projection, table, norm, feed-forward.

They exist beside Linen's own because their kernels keep their natural rank (`[embed, heads,
head_dim]`), so that every axis can carry a logical name and be cut by its own rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.parallel.rules import constrain

Initializer = Callable[..., Array]

# BERT's initial weights: Devlin et al. 2019, `initializer_range`.
INITIAL_STD = 0.02

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: gelu(x),
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
        return project(x.astype(self.dtype), kernel, n_in) + bias.astype(self.dtype)


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
        y = standardize(x.astype(jnp.float32), self.epsilon) * scale + bias
        return y.astype(self.dtype)


class Dropout(nn.Module):
    """Sets a share of `rate` of the values to zero and scales the others up, when training."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*n L D"], train: bool) -> Float[Array, "*n L D"]:
        if not train or self.rate == 0:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class LearnedPositions(nn.Module):
    """One learned vector per absolute position, at most `max_positions` of them."""

    max_positions: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, positions: Int[Array, "*n"], width: int) -> Float[Array, "*n D"]:
        table = Table(self.max_positions, width, "position", dtype=self.dtype, name="table")
        return table(positions)


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


def keep_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*n L D"]:
    """True with probability 1 - `rate`, to within 2^-16; the same on any mesh.

    One 32-bit number decides two values: drawing them is a tenth of a training step on a CPU.
    The two halves are laid along the last axis but one, which no mesh axis cuts.
    """
    *outer, length, width = shape
    bits = jax.random.bits(key, (*outer, -(-length // 2), width), jnp.uint32)
    halves = jnp.concatenate([bits & 0xFFFF, bits >> 16], axis=-2)[..., :length, :]
    return halves >= round(rate * 2**16)


# The gradients below are written out where automatic ones would keep more for the backward pass
# (a CPU spends its time on memory there, an accelerator its capacity) or order a product worse.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x: Float[Array, "*in"], kernel: Float[Array, "*k"], n_in: int) -> Float[Array, "*out"]:
    """Contracts the last `n_in` axes of x with the first ones of the kernel, in x's dtype.

    The kernel's gradient is float32 also where x is bfloat16: it sums over all tokens.
    """
    last = tuple(range(x.ndim - n_in, x.ndim))
    return _dot(x, kernel.astype(x.dtype), last, tuple(range(n_in)))


def _project_forward(x: Array, kernel: Array, n_in: int) -> tuple[Array, tuple[Array, Array]]:
    return project(x, kernel, n_in), (x, kernel)


def _project_backward(n_in: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    batch = tuple(range(x.ndim - n_in))
    out_y = tuple(range(len(batch), dy.ndim))
    dx = _dot(dy, kernel.astype(dy.dtype), out_y, tuple(range(n_in, kernel.ndim)))
    # Automatic differentiation would form the transpose, outputs before inputs, and turn it.
    return dx, _dot(x, dy, batch, batch, kernel.dtype)


project.defvjp(_project_forward, _project_backward)


def _dot(
    a: Array, b: Array, axes_a: tuple[int, ...], axes_b: tuple[int, ...], dtype: Any = None
) -> Array:
    dims = ((axes_a, axes_b), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=dtype)


@jax.custom_vjp
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016).

    With the error function, as BERT was trained; the tanh form differs by up to 5e-4.
    """
    return x * _normal_cdf(x)


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * jnp.square(x)) * (1 / math.sqrt(2 * math.pi))
    return (dy * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: Float[Array, "*n D"], epsilon: float) -> Float[Array, "*n D"]:
    """x with mean 0 and variance 1 along the last axis."""
    return _standardize_forward(x, epsilon)[0]


def _standardize_forward(x: Array, epsilon: float) -> tuple[Array, tuple[Array, Array]]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    y = centred * inverse
    return y, (y, inverse)


def _standardize_backward(epsilon: float, saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
    y, inverse = saved
    mean = jnp.mean(dy, axis=-1, keepdims=True)
    along = jnp.mean(dy * y, axis=-1, keepdims=True)
    return ((dy - mean - y * along) * inverse,)


standardize.defvjp(_standardize_forward, _standardize_backward)


def round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def _normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * INITIAL_STD
