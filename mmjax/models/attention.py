"""Attention of one transformer layer (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.errors import UserError
from mmjax.models.cache import KeyValues
from mmjax.models.layers import INITIAL_STD, Projection, keep_mask
from mmjax.parallel.attention import fused_attention, unsupported
from mmjax.parallel.rules import constrain

KERNELS = ("auto", "plain", "fused")

# Finite, so that a row whose keys are all padding (an example that only fills up a batch) gives
# numbers and not NaN, whose gradient would reach every parameter.
MASKED = -1e30


class Attention(nn.Module):
    """Every token attends to the tokens that `mask` lets it see: of its own row, or of `memory`.

    `mask` is bool [B, M]: all see the real tokens, in both directions; or [B, L, M]: who sees whom;
    or int [B, L], of tokens that see each other: the number of the text of a row that each belongs
    to, 0 at padding; it sees that text. `causal`: whatever the mask says, none sees a later one.
    `scale` is the factor on the dot products, 1 / sqrt(head_dim) when None. `std` is of the initial
    weights, None: 1 / sqrt(number of inputs); those of the query take in what `scale` leaves out,
    those of the output are times `output_gain`.

    With a `cache` the keys and values are those of its first M slots, and the mask alone says who
    sees whom. Given a `slot` too, those of x (or of `memory`) are written there before. Returned is
    also the cache as it is then, None without one.

    `kernel`: "plain" computes the weights [B, H, L, M] in memory; "auto" uses a fused kernel
    (`mmjax.parallel.attention`) wherever it computes the same: without a cache, weights that are
    dropped or a mask [B, L, M], and where the devices have one for the shapes; "fused" refuses
    where "auto" is plain. Without a cache a UserError says why.
    """

    heads: int
    head_dim: int
    dropout: float = 0.0
    causal: bool = False
    scale: float | None = None
    use_bias: bool = True
    std: float | None = INITIAL_STD
    output_gain: float = 1.0
    dtype: Any = jnp.float32
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        mask: Bool[Array, "B *L M"] | Int[Array, "B M"],
        train: bool = False,
        *,
        memory: Float[Array, "B N D"] | None = None,
        bias: Float[Array, "H Q M"] | None = None,
        cache: KeyValues | None = None,
        slot: Any = None,
    ) -> tuple[Float[Array, "B L D"], KeyValues | None]:
        heads = (self.heads, self.head_dim)
        names = ("heads", "head_dim")
        memory = x if memory is None else memory

        def project(name: str, x: Array, gain: float = 1.0) -> Array:
            std = gain * (x.shape[-1] ** -0.5 if self.std is None else self.std)
            y = Projection(heads, ("embed",), names, self.dtype, self.use_bias, std, name=name)(x)
            return constrain(y, "batch", "length", "act_heads", None)  # [B, L, H, K]

        left_out = 1.0 if self.scale is None else self.head_dim**-0.5 / self.scale
        query = project("query", x, left_out)
        if cache is None or slot is not None:
            key, value = project("key", memory), project("value", memory)
        drops = train and self.dropout > 0
        if cache is None and self._fused(query, key, mask, bias, drops):
            numbers = (mask, mask) if numbered(mask) else (jnp.ones(x.shape[:2], jnp.int32), mask)
            numbers = (number.astype(jnp.int32) for number in numbers)
            options = {"causal": self.causal, "scale": self.scale}
            mixed = fused_attention(query, key, value, *numbers, bias, **options)
        elif cache is None:
            if numbered(mask):
                mask = same_number(mask)
            if self.causal:
                mask = causal(mask)
            keep = None
            if drops:
                shape = (x.shape[0], self.heads, x.shape[1], mask.shape[-1])
                keep = keep_mask(self.make_rng("dropout"), self.dropout, shape)
                keep = constrain(keep, "batch", "act_heads", "length", None)
            mixed = attend(query, key, value, mask, keep, self.dropout, bias, self.scale)
        else:
            if slot is not None:
                cache = cache.write(key, value, slot)
            mixed = attend_to_cache(query, cache, mask, bias, self.scale)
        inputs = self.heads * self.head_dim
        std = self.output_gain * (inputs**-0.5 if self.std is None else self.std)
        output = Projection((x.shape[-1],), names, ("embed",), self.dtype, self.use_bias, std,
                            name="output")  # fmt: skip
        return output(mixed), cache

    def _fused(
        self, query: Array, key: Array, mask: Array, bias: Array | None, drops: bool
    ) -> bool:
        # Shapes alone are asked for at the start, perhaps on other devices.
        if self.kernel == "plain" or self.is_initializing():
            return False
        if drops:
            reason = "it cannot drop weights: set config.model.attention_dropout=0"
        elif mask.ndim == 3:
            reason = "this model says of each pair of tokens who sees whom"
        else:
            reason = unsupported(query, key, bias)
        if reason is not None and self.kernel == "fused":
            raise UserError(f'config.model.attention="fused": {reason}; "auto" is plain there.')
        return reason is None


def numbered(mask: Bool[Array, "B *L M"] | Int[Array, "B M"]) -> bool:
    """Whether a mask tells the texts of a row by their numbers."""
    return jnp.issubdtype(mask.dtype, jnp.integer)


def same_number(number: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """Which tokens (last axis) are of each token's text; none is of padding's, 0."""
    return (number[:, :, None] == number[:, None, :]) & (number > 0)[:, None, :]


def causal(mask: Bool[Array, "B *L M"]) -> Bool[Array, "B M M"]:
    """The mask [B, M] or [B, M, M], also closed to keys that come after the query."""
    mask = mask[:, None, :] if mask.ndim == 2 else mask
    length = mask.shape[-1]
    return mask & (jnp.arange(length)[:, None] >= jnp.arange(length))


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
    weights, highest, inverse = _exponentials(logits)
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


def attend_to_cache(
    query: Float[Array, "B L H K"],
    cache: KeyValues,
    mask: Bool[Array, "B *L M"],
    bias: Float[Array, "H Q M"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B L H K"]:
    """What `attend` gives for the keys and values in the cache's first M slots."""
    slots = mask.shape[-1]
    key, value = cache.key[..., :slots], cache.value[:, :, :slots]
    products = _float32("blhk,bhkm->bhlm", query, key)
    weights, _, inverse = _exponentials(_masked(products * _scale(query, scale), mask, bias))
    out = _float32("bhlm,bhmk->bhlk", weights.astype(value.dtype), value) * inverse
    return jnp.swapaxes(out, 1, 2).astype(value.dtype)


def _logits(
    query: Array, key: Array, mask: Array, bias: Array | None, scale: float | None
) -> Array:
    products = _float32("blhk,bmhk->bhlm", query, key)
    return _masked(products * _scale(query, scale), mask, bias)


def _masked(logits: Array, mask: Array, bias: Array | None) -> Array:
    if bias is not None:
        logits = logits + bias
    mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    return jnp.where(mask, logits, MASKED)


def _exponentials(logits: Array) -> tuple[Array, Array, Array]:
    """exp(logits - highest) [B, H, L, M], that highest of each row, and 1 / the row's sum."""
    highest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    return weights, highest, 1 / jnp.sum(weights, axis=-1, keepdims=True)


def _scale(query: Array, scale: float | None) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


def _drop(x: Array, keep: Array | None, dropout: float) -> Array:
    return x if keep is None else jnp.where(keep, x / (1 - dropout), 0)


def _float32(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
