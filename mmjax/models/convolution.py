"""Convolution and pooling over maps `[B, H, W, C]`.

Padding is (before, after), the same for rows and columns; where none is given, it is PyTorch's
usual size // 2 on both sides, with which a map of H gives one of ceil(H / stride).
"""

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

Padding = tuple[int, int]


def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "k k I O"],
    stride: int = 1,
    padding: Padding | None = None,
) -> Float[Array, "B h w O"]:
    """The convolution with an odd, square kernel, in x's dtype."""
    size = kernel.shape[0]
    pad = padding or _same(size)
    if size == 1:
        return project(x[:, ::stride, ::stride], kernel[0, 0], 1)
    h, w = _outputs(x, size, stride, pad)
    if h * w <= _SMALL_MAP:
        flat = kernel.reshape(-1, kernel.shape[-1])  # [k k I, O]
        return project(jnp.concatenate(_windows(x, size, stride, pad), axis=-1), flat, 1)
    return _convolve(x, kernel, stride, pad)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_depthwise(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C"],
    stride: int = 1,
    padding: Padding | None = None,
) -> Float[Array, "B h w C"]:
    """Each channel convolved alone with its own odd, square kernel, in x's dtype.

    On a CPU a sum of shifted products: XLA's convolution takes ten times as long there and more.
    """
    pad = padding or _same(kernel.shape[0])
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(depthwise_by_shifts, stride=stride, pad=pad),
        default=partial(depthwise_by_groups, stride=stride, pad=pad),
    )


def _depthwise_backward(
    stride: int, padding: Padding | None, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    pad = padding or _same(kernel.shape[0])
    forward = partial(depthwise_by_groups, stride=stride, pad=pad)
    return jax.lax.platform_dependent(
        x,
        kernel,
        dy,
        cpu=partial(_by_shifts_backward, stride=stride, pad=pad),
        default=lambda x, kernel, dy: jax.vjp(forward, x, kernel)[1](dy),
    )


convolve_depthwise.defvjp(
    lambda x, kernel, *how: (convolve_depthwise(x, kernel, *how), (x, kernel)),
    _depthwise_backward,
)


def depthwise_by_groups(x: Array, kernel: Array, stride: int, pad: Padding) -> Array:
    """The convolution of as many groups as there are channels."""
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype)[:, :, None, :],
        (stride, stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def depthwise_by_shifts(x: Array, kernel: Array, stride: int, pad: Padding) -> Array:
    """The same as a sum over the kernel's places, in float32."""
    windows = _windows(x, kernel.shape[0], stride, pad)
    weights = kernel.reshape(-1, kernel.shape[-1])  # [k k, C]
    total = sum(_wide(window, weight) for window, weight in zip(windows, weights, strict=True))
    return total.astype(x.dtype)


def _by_shifts_backward(
    x: Array, kernel: Array, dy: Array, stride: int, pad: Padding
) -> tuple[Array, Array]:
    k, (before, _) = kernel.shape[0], pad
    # dx: each output's gradient, spread with the kernel turned by half a turn.
    reach = [stride * (n - 1) + 1 for n in dy.shape[1:3]]  # of the outputs, laid over the input
    around = [(k - 1 - before, n - r + before) for n, r in zip(x.shape[1:3], reach, strict=True)]
    edges = [(0, 0, 0), *((*edge, stride - 1) for edge in around), (0, 0, 0)]
    spread = jax.lax.pad(dy, jnp.zeros((), dy.dtype), edges)
    dx = depthwise_by_shifts(spread, kernel[::-1, ::-1], 1, (0, 0))
    # dk: how each shift of the input goes along with the outputs' gradient; in a loop, which takes
    # a quarter of the time of as many sums side by side.
    padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))

    def along(place: Array) -> Array:
        start = (0, place // k, place % k, 0)
        window = jax.lax.dynamic_slice(padded, start, (len(x), *reach, x.shape[-1]))
        return _wide(window[:, ::stride, ::stride], dy).sum(axis=(0, 1, 2))

    dk = jax.lax.map(along, jnp.arange(k * k)).reshape(kernel.shape)
    return dx, dk.astype(kernel.dtype)


def _wide(a: Array, b: Array) -> Array:
    """The product in float32."""
    return a.astype(jnp.float32) * b.astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Float[Array, "B H W C"], size: int = 3, stride: int = 2) -> Float[Array, "B h w C"]:
    """The largest value under each window; what lies beyond the edge never is.

    The gradient goes to the first of equal values. It is written out: XLA's own takes a CPU
    several times as long.
    """
    return reduce(jnp.maximum, _windows(x, size, stride, _same(size), -jnp.inf))


def _max_pool_backward(
    size: int, stride: int, saved: tuple[Array, Array], dy: Array
) -> tuple[Array]:
    x, y = saved
    windows, back = jax.vjp(lambda x: _windows(x, size, stride, _same(size), -jnp.inf), x)
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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, pad: Padding) -> Array:
    return _conv(x, kernel.astype(x.dtype), (pad, pad), strides=stride)


def _convolve_backward(
    stride: int, pad: Padding, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    k, (before, _) = kernel.shape[0], pad
    reach = [stride * (n - 1) + 1 for n in dy.shape[1:3]]  # of the outputs, laid over the input
    # dx: each output's gradient, spread with the kernel turned by half a turn.
    turned = kernel[::-1, ::-1].swapaxes(2, 3).astype(dy.dtype)  # [k, k, O, I]
    around = [(k - 1 - before, n - r + before) for n, r in zip(x.shape[1:3], reach, strict=True)]
    dx = _conv(dy, turned, around, spread=stride)
    # dk: the input laid over the outputs' gradient at each shift; rows are what is summed over.
    around = [(before, r + k - 1 - n - before) for n, r in zip(x.shape[1:3], reach, strict=True)]
    dk = _conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), around, dilation=stride,
               dtype=kernel.dtype)  # [I, k, k, O]  # fmt: skip
    return dx, dk.transpose(1, 2, 0, 3)


_convolve.defvjp(
    lambda x, kernel, stride, pad: (_convolve(x, kernel, stride, pad), (x, kernel)),
    _convolve_backward,
)


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


def _windows(x: Array, size: int, stride: int, pad: Padding, beyond: float = 0.0) -> list[Array]:
    """The pixels that each place of the kernel meets, row by row: k k times [B, h, w, C]."""
    padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=beyond)
    rows, columns = (stride * (n - 1) + 1 for n in _outputs(x, size, stride, pad))
    return [
        padded[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]


def _outputs(x: Array, size: int, stride: int, pad: Padding) -> tuple[int, int]:
    """Height and width of the result."""
    h, w = ((n + sum(pad) - size) // stride + 1 for n in x.shape[1:3])
    return h, w


def _same(size: int) -> Padding:
    return (size // 2, size // 2)
