"""Attention of one transformer layer (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.layers import Projection, keep_mask
from mmjax.parallel.rules import constrain

# Finite, so that a row whose keys are all padding (an example that only fills up a batch) gives
# numbers and not NaN, whose gradient would reach every parameter.
MASKED = -1e30


class Attention(nn.Module):
    """Every token attends to the tokens of its row that `mask` lets it see.

    `mask` is [B, L]: all see the real tokens, in both directions; or [B, L, M]: who sees whom.
    """

    heads: int
    head_dim: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B *L L"], train: bool = False
    ) -> Float[Array, "B L D"]:
        heads = (self.heads, self.head_dim)
        names = ("heads", "head_dim")

        def project(name: str) -> Array:
            y = Projection(heads, ("embed",), names, self.dtype, name=name)(x)
            return constrain(y, "batch", "length", "act_heads", None)  # [B, L, H, K]

        query, key, value = project("query"), project("key"), project("value")
        keep = None
        if train and self.dropout > 0:
            shape = (x.shape[0], self.heads, x.shape[1], mask.shape[-1])
            keep = keep_mask(self.make_rng("dropout"), self.dropout, shape)
            keep = constrain(keep, "batch", "act_heads", "length", None)
        mixed = attend(query, key, value, mask, keep, self.dropout)  # [B, L, H, K]
        return Projection((x.shape[-1],), names, ("embed",), self.dtype, name="output")(mixed)


@partial(jax.custom_vjp, nondiff_argnums=(5, 7))
def attend(
    query: Float[Array, "B L H K"],
    key: Float[Array, "B M H K"],
    value: Float[Array, "B M H K"],
    mask: Bool[Array, "B *L M"],
    keep: Bool[Array, "B H L M"] | None,
    dropout: float,
    bias: Float[Array, "H L M"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B L H K"]:
    """softmax(scale query key + bias) value over the keys that `mask` allows; softmax in float32.

    `mask` is [B, M], the same for every query, or [B, L, M]. `keep` is the dropout mask of the
    weights at rate `dropout`; `scale` is 1 / sqrt(K) when None. The backward pass computes the
    weights [B, H, L, M] again instead of keeping them (Dao et al. 2022, section 3.1).
    """
    return _attend_forward(query, key, value, mask, keep, dropout, bias, scale)[0]


def _attend_forward(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    keep: Array | None,
    dropout: float,
    bias: Array | None,
    scale: float | None,
) -> tuple[Array, tuple[Array | None, ...]]:
    logits = _logits(query, key, mask, bias, scale)  # [B, H, L, M]
    highest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    inverse = 1 / jnp.sum(weights, axis=-1, keepdims=True)  # [B, H, L, 1]
    weights = _drop(weights, keep, dropout).astype(value.dtype)
    out = _float32("bhlm,bmhk->blhk", weights, value)
    # Divided after the product: by K / M fewer divisions.
    out = (out * jnp.swapaxes(inverse, 1, 2)).astype(value.dtype)
    return out, (query, key, value, mask, keep, bias, highest, inverse, out)


def _attend_backward(
    dropout: float, scale: float | None, saved: tuple[Array | None, ...], dout: Array
) -> tuple[Array | None, ...]:
    query, key, value, mask, keep, bias, highest, inverse, out = saved
    dtype = query.dtype
    weights = jnp.exp(_logits(query, key, mask, bias, scale) - highest) * inverse
    dropped = _drop(weights, keep, dropout).astype(dtype)
    dvalue = _float32("bhlm,blhk->bmhk", dropped, dout)
    dweights = _drop(_float32("blhk,bmhk->bhlm", dout, value), keep, dropout)
    # The softmax's gradient needs sum(weights * dweights) per row, which is sum(out * dout).
    along = jnp.sum(out.astype(jnp.float32) * dout.astype(jnp.float32), axis=-1)  # [B, L, H]
    dlogits = weights * (dweights - jnp.swapaxes(along, 1, 2)[..., None])
    dbias = None if bias is None else jnp.sum(dlogits, axis=0).astype(bias.dtype)
    dlogits = dlogits.astype(dtype)
    scale = _scale(query, scale)
    dquery = _float32("bhlm,bmhk->blhk", dlogits, key) * scale
    dkey = _float32("bhlm,blhk->bmhk", dlogits, query) * scale
    return dquery.astype(dtype), dkey.astype(dtype), dvalue.astype(dtype), None, None, dbias


attend.defvjp(_attend_forward, _attend_backward)


def _logits(
    query: Array, key: Array, mask: Array, bias: Array | None, scale: float | None
) -> Array:
    logits = _float32("blhk,bmhk->bhlm", query, key) * _scale(query, scale)
    if bias is not None:
        logits = logits + bias
    mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    return jnp.where(mask, logits, MASKED)


def _scale(query: Array, scale: float | None) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


def _drop(x: Array, keep: Array | None, dropout: float) -> Array:
    return x if keep is None else jnp.where(keep, x / (1 - dropout), 0)


def _float32(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
