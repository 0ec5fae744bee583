"""Adafactor (Shazeer and Stern 2018): the second moment of a matrix as a row times a column.

It works on each layer's matrix of a stack by itself, at the kernel's natural rank: the inputs'
axes together are the rows and the outputs' the columns, and the moments keep the names of their
axes, so that they are cut over devices as the kernel is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mmjax.optim.parameters import Parameter, boxed_like

# Algorithm 4 and section 6: decay 1 - t^-0.8 of the moments, updates of at most this root mean
# square, and steps relative to that of the parameter, which counts as at least 1e-3.
_DECAY_EXPONENT = 0.8
_LARGEST_UPDATE = 1.0
_SMALLEST_SCALE = 1e-3
_EPSILON = 1e-30


class FactoredState(NamedTuple):
    """Attributes:
    count: int32, updates made.
    rows, columns: means of the squared gradient over a matrix's outputs, over its inputs; None
      where the moment is kept whole.
    full: the moment of every number of the other parameters; None elsewhere.
    """

    count: Array
    rows: Any
    columns: Any
    full: Any


def scale_by_adafactor(parameters: Any, factor_from: int = 128) -> optax.GradientTransformation:
    """Algorithm 4 without a learning rate: updates relative to the size of the parameter.

    Args:
      parameters: tree of `Parameter`, of what is trained.
      factor_from: matrices with fewer rows or columns keep their whole second moment.
    """

    def split(parameter: Parameter) -> bool:
        sizes = parameter.sizes()
        return sizes is not None and min(sizes) >= factor_from

    def init(params: Any) -> FactoredState:
        def without(axes: tuple[int, ...], parameter: Parameter, leaf: Any) -> Any:
            kept = [i for i in range(len(parameter.shape)) if i not in axes]
            zeros = jnp.zeros([parameter.shape[i] for i in kept], jnp.float32)
            return boxed_like(leaf, zeros, tuple(parameter.axes[i] for i in kept))

        def rows(p: Parameter, leaf: Any) -> Any:
            return without(p.matrix[1], p, leaf) if split(p) else None

        def columns(p: Parameter, leaf: Any) -> Any:
            return without(p.matrix[0], p, leaf) if split(p) else None

        def full(p: Parameter, leaf: Any) -> Any:
            return None if split(p) else without((), p, leaf)

        moments = (jax.tree.map(part, parameters, params) for part in (rows, columns, full))
        return FactoredState(jnp.zeros((), jnp.int32), *moments)

    def update(grads: Any, state: FactoredState, params: Any) -> tuple[Any, FactoredState]:
        count = optax.safe_increment(state.count)
        decay = 1 - count.astype(jnp.float32) ** -_DECAY_EXPONENT

        def squares(grad: Array) -> Array:
            return jnp.square(grad.astype(jnp.float32)) + _EPSILON

        def mean(axes: tuple[int, ...], grad: Array, old: Array) -> Array:
            return decay * old + (1 - decay) * squares(grad).mean(axes)

        def rows(p: Parameter, grad: Array, old: Array | None) -> Array | None:
            return mean(p.matrix[1], grad, old) if split(p) else None

        def columns(p: Parameter, grad: Array, old: Array | None) -> Array | None:
            return mean(p.matrix[0], grad, old) if split(p) else None

        def full(p: Parameter, grad: Array, old: Array | None) -> Array | None:
            return None if split(p) else mean((), grad, old)

        moments = [
            jax.tree.map(part, parameters, grads, old)
            for part, old in ((rows, state.rows), (columns, state.columns), (full, state.full))
        ]
        updates = jax.tree.map(_update, parameters, grads, params, *moments)
        return updates, FactoredState(count, *moments)

    return optax.GradientTransformation(init, update)


def _update(p: Parameter, grad: Array, param: Array, rows: Any, columns: Any, full: Any) -> Array:
    if full is not None:
        update = grad * jax.lax.rsqrt(full)
    else:
        inputs, outputs = p.matrix
        r = jnp.expand_dims(rows, outputs)
        # The quotient first: the product of two small moments could be 0.
        update = grad * jax.lax.rsqrt(r / r.mean(inputs, keepdims=True))
        update = update * jax.lax.rsqrt(jnp.expand_dims(columns, inputs))
    update = update / jnp.maximum(1.0, _size(update, p.own) / _LARGEST_UPDATE)
    return update * jnp.maximum(_SMALLEST_SCALE, _size(param, p.own))


def _size(x: Array, axes: tuple[int, ...]) -> Array:
    """Root mean square of each layer's numbers."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axes, keepdims=True))
