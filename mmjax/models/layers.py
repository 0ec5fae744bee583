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

from mmjax.models.activations import ACTIVATIONS
from mmjax.models.vocabulary import vocabulary_cross_entropy
from mmjax.parallel.rules import constrain

Initializer = Callable[..., Array]

# BERT's initial weights: Devlin et al. 2019, `initializer_range`.
INITIAL_STD = 0.02


class Projection(nn.Module):
    """A linear map from the last `len(in_axes)` axes of the input to `shape`, plus a bias.

    The kernel is `[*inputs, *shape]` with one logical name per axis. Its initial values are drawn
    by `init_kernel`; None: they have standard deviation `std`; None: 1 / sqrt(number of inputs).
    """

    shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    dtype: Any = jnp.float32
    use_bias: bool = True
    std: float | None = INITIAL_STD
    init_kernel: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch"]) -> Float[Array, "*out"]:
        n_in = len(self.in_axes)
        in_shape = x.shape[x.ndim - n_in :]
        std = math.prod(in_shape) ** -0.5 if self.std is None else self.std
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(
                self.init_kernel or normal_init(std), (*self.in_axes, *self.out_axes)
            ),
            (*in_shape, *self.shape),
            jnp.float32,
        )
        y = project(x.astype(self.dtype), kernel, n_in)
        if not self.use_bias:
            return y
        bias = self.param(
            "bias",
            nn.with_logical_partitioning(nn.initializers.zeros_init(), self.out_axes),
            self.shape,
            jnp.float32,
        )
        return y + bias.astype(self.dtype)


class Table(nn.Module):
    """Rows of parameters that are looked up by index: words, positions, segments.

    Rows from `rows` on are padding up to `padded_rows`, start as zero and are never looked up. The
    initial values are drawn by `init_rows`; None: they have standard deviation `std`.
    """

    rows: int
    width: int
    axis: str
    padded_rows: int | None = None
    dtype: Any = jnp.float32
    std: float = INITIAL_STD
    init_rows: Initializer | None = None
    width_axis: str = "embed"

    def setup(self):
        total = self.padded_rows or self.rows

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            draw = self.init_rows or normal_init(self.std)
            table = draw(key, (self.rows, self.width), dtype)
            return jnp.pad(table, ((0, total - self.rows), (0, 0)))

        self.embedding = self.param(
            "embedding",
            nn.with_logical_partitioning(init, (self.axis, self.width_axis)),
            (total, self.width),
            jnp.float32,
        )

    def __call__(self, ids: Int[Array, "*n"]) -> Float[Array, "*n D"]:
        # A gather from a table cut on both axes makes XLA rebuild the whole result on every
        # device; one all-gather of the width first is the cheaper order.
        table = constrain(self.embedding.astype(self.dtype), self.axis, None)
        return jnp.take(table, ids, axis=0)

    def logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Every row's dot product with x, in float32 (Press and Wolf 2017)."""
        table = constrain(self.embedding.astype(self.dtype), self.axis, None)
        y = jnp.einsum(
            "bld,vd->blv", x.astype(self.dtype), table, preferred_element_type=jnp.float32
        )
        return constrain(y, "batch", "length", "act_vocab")[..., : self.rows]

    def cross_entropy(
        self, x: Float[Array, "B L D"], labels: Int[Array, "B L"], block: int
    ) -> Float[Array, "B L"]:
        """-log softmax(logits)[label], float32, with the logits of `block` places at a time."""
        given = x.astype(self.dtype), self.embedding, labels
        return vocabulary_cross_entropy(*given, self.rows, block)


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


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32 (Zhang and Sennrich 2019)."""

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        scale = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), x.shape[-1:]
        )
        x = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(square + self.epsilon) * scale).astype(self.dtype)


class Dropout(nn.Module):
    """Sets a share of `rate` of the values to zero and scales the others up, when training."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*n L D"], train: bool) -> Float[Array, "*n L D"]:
        if not train or self.rate == 0:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class FeedForward(nn.Module):
    """Two projections with an activation between them, applied to every position alone.

    `gated`: what is activated multiplies a third projection (Shazeer 2020). `dropout` acts on
    what goes into the last one. `output_gain` scales the initial weights of that one.
    """

    width: int
    activation: str
    gated: bool = False
    use_bias: bool = True
    dropout: float = 0.0
    std: float | None = INITIAL_STD
    output_gain: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], train: bool = False) -> Float[Array, "B L D"]:
        activation = ACTIVATIONS[self.activation]

        def project(name: str, x: Array, width: int, axes: tuple[str, str], std: Any) -> Array:
            return Projection(
                (width,), axes[:1], axes[1:], self.dtype, self.use_bias, std, name=name
            )(x)

        def widen(name: str) -> Array:
            y = project(name, x, self.width, ("embed", "mlp"), self.std)
            return constrain(y, "batch", "length", "act_mlp")  # [B, L, M]

        gate = activation(widen("gate" if self.gated else "up"))
        hidden = gate * widen("up") if self.gated else gate
        hidden = Dropout(self.dropout)(hidden, train)
        std = self.output_gain * (self.width**-0.5 if self.std is None else self.std)
        return project("down", hidden, x.shape[-1], ("mlp", "embed"), std)


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
    return _project_forward(x, kernel, n_in)[0]


def _project_forward(x: Array, kernel: Array, n_in: int) -> tuple[Array, tuple[Array, Array]]:
    # Not by `project`: the product has to be seen by what decides which products are kept (remat).
    last = tuple(range(x.ndim - n_in, x.ndim))
    return _dot(x, kernel.astype(x.dtype), last, tuple(range(n_in))), (x, kernel)


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


def normal_init(std: float) -> Initializer:
    """Normal values, redrawn beyond two standard deviations of `std`."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * std

    return init


def xavier_uniform(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """Glorot and Bengio 2010, equation 16: the variance is kept forwards and backwards."""
    return uniform_init(math.sqrt(6 / sum(shape)))(key, shape, dtype)


def uniform_init(limit: float) -> Initializer:
    """Values between -limit and limit, all as likely."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
