"""The dual encoder: a dialogue's text and a photo's labels, each as one vector (PhotoChat, 5.2)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.layers import Projection
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """Attributes:
    query, labels: transformers of the two towers.
    shared: one set of weights serves both towers (then `labels` equals `query`).
    pooling: "cls" takes the first token's vector, "mean" averages those of the real tokens.
    joint_dim: width of the shared space that a linear layer per tower maps to; None: no such
      layer, the towers' own width.
    logit_scale: factor on the cosine of the two vectors; its first value when it is learned.
    learn_scale: whether it is learned (as its logarithm, capped at ln 100 as CLIP does).
    """

    query: TransformerConfig
    labels: TransformerConfig
    shared: bool = False
    pooling: Literal["cls", "mean"] = "cls"
    joint_dim: int | None = 512
    logit_scale: float = 1.0
    learn_scale: bool = False


class DualEncoder(nn.Module):
    """Vectors of unit length whose dot product says how well a photo fits a dialogue.

    A side of the batch is {"ids": int [B, L], "mask": bool [B, L]}.
    """

    config: DualEncoderConfig

    def setup(self):
        config = self.config
        self.query_tower = Transformer(config.query)
        if not config.shared:
            self.label_tower = Transformer(config.labels)
        if config.joint_dim is not None:
            self.query_head = Projection((config.joint_dim,), ("embed",), ("joint",))
            self.photo_head = Projection((config.joint_dim,), ("embed",), ("joint",))
        if config.learn_scale:
            start = jnp.log(jnp.float32(config.logit_scale))
            self.log_scale = self.param("log_scale", lambda _: start)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Array]:
        """Outputs "query" and "photo", float32 [B, D], and "scale", a scalar."""
        return {
            "query": self.embed_query(batch["query"], train=train),
            "photo": self.embed_photo(batch["photo"], train=train),
            "scale": self._scale(),
        }

    def embed_query(self, side: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of dialogues."""
        head = None if self.config.joint_dim is None else self.query_head
        return self._embed(self.query_tower, head, side, train)

    def embed_photo(self, side: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of photos, from their labels' text."""
        tower = self.query_tower if self.config.shared else self.label_tower
        head = None if self.config.joint_dim is None else self.photo_head
        return self._embed(tower, head, side, train)

    def _embed(self, tower: Any, head: Any, side: Any, train: bool) -> Float[Array, "B D"]:
        hidden = tower(side["ids"], side["mask"], train=train)  # [B, L, D]
        pooled = pool(hidden, side["mask"], self.config.pooling)  # [B, D]
        if head is not None:
            pooled = head(pooled)
        return constrain(unit_length(pooled.astype(jnp.float32)), "batch", None)

    def _scale(self) -> Float[Array, ""]:
        if not self.config.learn_scale:
            return jnp.float32(self.config.logit_scale)
        return jnp.exp(jnp.minimum(self.log_scale, jnp.log(100.0)))


def pool(
    hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"], pooling: str
) -> Float[Array, "B D"]:
    """One vector per row: the first token's, or the mean over real tokens (0 without any)."""
    if pooling == "cls":
        return hidden[:, 0]
    # where, and not a product: what stands at padding is undefined and may be NaN.
    real = mask[..., None]
    total = jnp.where(real, hidden.astype(jnp.float32), 0).sum(axis=1)
    return total / jnp.maximum(real.sum(axis=1), 1)


def unit_length(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Rows scaled to length 1; a zero row stays zero, with a gradient of zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.maximum(square, 1e-24)), 0.0)
