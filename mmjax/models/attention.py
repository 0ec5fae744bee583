"""Self-attention of one transformer layer (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.layers import Projection
from mmjax.parallel.rules import constrain

# Finite, so that a row whose keys are all padding (an example that only fills up a batch) gives
# numbers and not NaN, whose gradient would reach every parameter.
MASKED = -1e30


class SelfAttention(nn.Module):
    """Every token attends to every real token of its row, in both directions."""

    heads: int
    head_dim: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"], train: bool = False
    ) -> Float[Array, "B L D"]:
        heads = (self.heads, self.head_dim)
        names = ("heads", "head_dim")

        def project(name: str) -> Array:
            y = Projection(heads, ("embed",), names, self.dtype, name=name)(x)
            return constrain(y, "batch", "length", "act_heads", None)  # [B, L, H, K]

        query, key, value = project("query"), project("key"), project("value")
        query = query * (1.0 / math.sqrt(self.head_dim))
        logits = jnp.einsum("blhk,bmhk->bhlm", query, key, preferred_element_type=jnp.float32)
        logits = jnp.where(mask[:, None, None, :], logits, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
        mixed = jnp.einsum("bhlm,bmhk->blhk", weights, value)  # [B, L, H, K]
        return Projection((x.shape[-1],), names, ("embed",), self.dtype, name="output")(mixed)
