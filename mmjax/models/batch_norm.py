"""Batch normalisation (Ioffe and Szegedy 2015), with a say in which rows count together."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

BatchNormMode = Literal["global", "groups", "frozen"]


class BatchNorm(nn.Module):
    """Normalises each channel over rows and pixels, then scales and shifts it.

    Statistics are computed in float32. In training they come from the batch:

    * "global": from all rows of the batch, on whatever number of devices.
    * "groups": from each `group` consecutive rows on their own, as data-parallel training without
      synchronised statistics has them, but with the same result on any number of devices.
    * "frozen": not from the batch. The running statistics are used, and stay as they are.

    The running statistics (collection "batch_stats": "mean" and "variance", the latter unbiased)
    then move by `momentum` towards the batch's; with groups, towards the mean of the groups'.
    Evaluation uses the running statistics.

    `epsilon` is added to each variance. `present` is True at rows that count; without a single one
    the running statistics stay. Raises ValueError when the batch does not divide into groups.
    """

    mode: BatchNormMode
    group: int
    epsilon: float = 1e-5
    momentum: float = 0.1  # of the newest batch in the running statistics
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool, present: Bool[Array, " B"] | None = None
    ) -> Float[Array, "B H W C"]:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        scale = self.param("scale", _named(self.scale_init), x.shape[-1:], jnp.float32)
        bias = self.param("bias", _named(zeros), x.shape[-1:], jnp.float32)
        mean = self.variable("batch_stats", "mean", _named(zeros), None, x.shape[-1:])
        variance = self.variable("batch_stats", "variance", _named(ones), None, x.shape[-1:])

        if not train or self.mode == "frozen":
            factor = scale * jax.lax.rsqrt(variance.value + self.epsilon)
            return ((x.astype(jnp.float32) - mean.value) * factor + bias).astype(x.dtype)

        rows = self._rows(x.shape[0], present)  # [G, R]
        groups = x.reshape(*rows.shape, *x.shape[1:])  # [G, R, H, W, C]
        y, batch_mean, batch_variance = normalize(groups, scale, bias, rows, self.epsilon)
        if not self.is_initializing():
            values = rows.sum(axis=1) * (x.shape[1] * x.shape[2])  # [G]
            mean.value = _moved(mean.value, batch_mean, values, self.momentum)
            unbiased = batch_variance * (values / jnp.maximum(values - 1, 1))[:, None]
            variance.value = _moved(variance.value, unbiased, values, self.momentum)
        return y.reshape(x.shape)

    def _rows(self, batch: int, present: Array | None) -> Float[Array, "G R"]:
        size = batch if self.mode == "global" else self.group
        if batch % size:
            raise ValueError(
                f"a batch of {batch} rows does not divide into groups of {size}, over which batch "
                "normalisation is to work"
            )
        counted = jnp.ones(batch) if present is None else present.astype(jnp.float32)
        return counted.reshape(-1, size)


def _named(init: Any) -> Any:
    return nn.with_logical_partitioning(init, ("channels",))


def _moved(
    running: Float[Array, " C"],
    new: Float[Array, "G C"],
    values: Float[Array, " G"],
    momentum: float,
) -> Float[Array, " C"]:
    """`running`, moved towards the mean of the groups in which anything was counted."""
    counted = values > 0
    total = jnp.where(counted[:, None], new, 0).sum(axis=0)
    moved = running + momentum * (total / jnp.maximum(counted.sum(), 1) - running)
    return jnp.where(counted.any(), moved, running)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalize(
    x: Float[Array, "G R H W C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    rows: Float[Array, "G R"],
    epsilon: float,
) -> tuple[Float[Array, "G R H W C"], Float[Array, "G C"], Float[Array, "G C"]]:
    """Each group's channels with mean 0 and variance 1, scaled and shifted; mean and variance.

    `rows` is 1 where a row counts, else 0; the others are normalised too. The gradient flows
    through the first result only. It is written out, so that the backward pass keeps x as it is
    (bfloat16 where computed so) and reads it twice.
    """
    return _normalize_forward(x, scale, bias, rows, epsilon)[0]


def _normalize_forward(
    x: Array, scale: Array, bias: Array, rows: Array, epsilon: float
) -> tuple[Any, Any]:
    weight = _weight(x, rows)
    wide = x.astype(jnp.float32)
    mean = _over_pixels(wide * weight)  # [G, C]
    # Not the mean of squares less the square of the mean, which cancels where the mean is large.
    variance = _over_pixels(jnp.square(wide - _spread(mean)) * weight)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = (wide - _spread(mean)) * _spread(inverse * scale) + bias
    return (y.astype(x.dtype), mean, variance), (x, scale, rows, mean, inverse)


def _normalize_backward(
    epsilon: float, saved: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple:
    x, scale, rows, mean, inverse = saved
    dy = cotangents[0].astype(jnp.float32)
    y = (x.astype(jnp.float32) - _spread(mean)) * _spread(inverse)
    total = _over_pixels(dy)  # [G, C]
    along = _over_pixels(dy * y)
    through_statistics = _weight(x, rows) * (_spread(total) + y * _spread(along))
    dx = (dy - through_statistics) * _spread(inverse * scale)
    return dx.astype(x.dtype), along.sum(axis=0), total.sum(axis=0), jnp.zeros_like(rows)


normalize.defvjp(_normalize_forward, _normalize_backward)


def _weight(x: Array, rows: Array) -> Float[Array, "G R 1 1 1"]:
    """One pixel's share of its group: 0 in rows that do not count, and of a group without any."""
    values = rows.sum(axis=1, keepdims=True) * (x.shape[2] * x.shape[3])
    return (rows / jnp.maximum(values, 1))[:, :, None, None, None]


def _over_pixels(x: Float[Array, "G R H W C"]) -> Float[Array, "G C"]:
    return x.sum(axis=(1, 2, 3))


def _spread(x: Float[Array, "G C"]) -> Float[Array, "G 1 1 1 C"]:
    return x[:, None, None, None, :]
