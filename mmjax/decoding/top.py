"""The best words of a large vocabulary."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_GROUP = 128


def top_k(scores: Float[Array, "*n V"], k: int) -> tuple[Float[Array, "*n k"], Int[Array, "*n k"]]:
    """`jax.lax.top_k`, of equal scores too, for a V far above k.

    The k best lie in the k groups with the highest maxima: one pass over all of V, and a sort of
    little. On a CPU `lax.top_k` orders the indices of all of V instead.
    """
    V = scores.shape[-1]
    if 2 * k * _GROUP > V:
        return jax.lax.top_k(scores, k)
    rows, groups = scores.shape[:-1], math.ceil(V / _GROUP)
    wide = [(0, 0)] * len(rows) + [(0, groups * _GROUP - V)]
    scores = jnp.pad(scores, wide, constant_values=-jnp.inf).reshape(*rows, groups, _GROUP)
    # In the order of their words, so that of equal ones the first comes first.
    best = jnp.sort(jax.lax.top_k(scores.max(axis=-1), k)[1], axis=-1)  # [*n, k]
    values = jnp.take_along_axis(scores, best[..., None], axis=-2).reshape(*rows, k * _GROUP)
    values, place = jax.lax.top_k(values, k)
    group = jnp.take_along_axis(best, place // _GROUP, axis=-1)
    return values, group * _GROUP + place % _GROUP
