"""Convolution and pooling over maps `[B, H, W, C]`, padded as PyTorch does: by size // 2."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.models.layers import project

# XLA's convolution on a CPU takes up to fifty times as long as the equal matrix product where the
# map is hardly larger than the kernel. Maps of larger images never become this small.
_SMALL_MAP = 16  # pixels


def convolve(
    x: Float[Array, "B H W I"], kernel: Float[Array, "k k I O"], stride: int = 1
) -> Float[Array, "B h w O"]:
    """The convolution with an odd, square kernel, in x's dtype; h = ceil(H / stride)."""
    size = kernel.shape[0]
    if size == 1:
        return project(x[:, ::stride, ::stride], kernel[0, 0], 1)
    if _outputs(x.shape[1], stride) * _outputs(x.shape[2], stride) <= _SMALL_MAP:
        flat = kernel.reshape(-1, kernel.shape[-1])  # [k k I, O]
        return project(jnp.concatenate(_windows(x, size, stride), axis=-1), flat, 1)
    return _convolve(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Float[Array, "B H W C"], size: int = 3, stride: int = 2) -> Float[Array, "B h w C"]:
    """The largest value under each window; what lies beyond the edge never is.

    The gradient goes to the first of equal values. It is written out: XLA's own takes a CPU
    several times as long.
    """
    return reduce(jnp.maximum, _windows(x, size, stride, -jnp.inf))


def _max_pool_backward(
    size: int, stride: int, saved: tuple[Array, Array], dy: Array
) -> tuple[Array]:
    x, y = saved
    windows, back = jax.vjp(lambda x: _windows(x, size, stride, -jnp.inf), x)
    free, gradients = jnp.ones(y.shape, bool), []
    for window in windows:
        largest = (window == y) & free
        free &= ~largest
        gradients.append(jnp.where(largest, dy, 0))
    return back(gradients)


max_pool.defvjp(
    lambda x, size, stride: (y := max_pool(x, size, stride), (x, y)),
    _max_pool_backward,
)


# Automatic gradients are convolutions with their axes in another order. Inside a loop XLA's CPU
# compiler does not turn them back, and computes them a hundred times slower.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    pad = (kernel.shape[0] // 2,) * 2
    return _conv(x, kernel.astype(x.dtype), (pad, pad), strides=stride)


def _convolve_backward(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k = kernel.shape[0]
    pad = k // 2
    reach = [stride * (n - 1) + 1 for n in dy.shape[1:3]]  # of the outputs, laid over the input
    # dx: each output's gradient, spread with the kernel turned by half a turn.
    turned = kernel[::-1, ::-1].swapaxes(2, 3).astype(dy.dtype)  # [k, k, O, I]
    around = [(k - 1 - pad, n - r + pad) for n, r in zip(x.shape[1:3], reach, strict=True)]
    dx = _conv(dy, turned, around, spread=stride)
    # dk: the input laid over the outputs' gradient at each shift; rows are what is summed over.
    around = [(pad, r + k - 1 - n - pad) for n, r in zip(x.shape[1:3], reach, strict=True)]
    dk = _conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), around, dilation=stride,
               dtype=kernel.dtype)  # [I, k, k, O]  # fmt: skip
    return dx, dk.transpose(1, 2, 0, 3)


_convolve.defvjp(lambda x, kernel, stride: (_convolve(x, kernel, stride), (x, kernel)),
                 _convolve_backward)  # fmt: skip


def _conv(
    x: Array, kernel: Array, padding: Any, *, strides: int = 1, spread: int = 1,
    dilation: int = 1, dtype: Any = None
) -> Array:  # fmt: skip
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        lhs_dilation=(spread, spread),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=dtype,
    )


def _windows(x: Array, size: int, stride: int, beyond: float = 0.0) -> list[Array]:
    """The pixels that each place of the kernel meets, row by row: k k times [B, h, w, C]."""
    edge = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=beyond)
    rows, columns = (stride * (_outputs(n, stride) - 1) + 1 for n in x.shape[1:3])
    return [
        padded[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]


def _outputs(n: int, stride: int) -> int:
    return (n - 1) // stride + 1
