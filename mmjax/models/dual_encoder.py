"""The dual encoder: a dialogue's text and a photo, each as one vector (PhotoChat, 5.2).

Of a photo it sees the text of its labels (DE_label), its pixels (DE_img), or both (DE): what the
towers give is joined and mapped to the shared space by one linear layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import Projection
from mmjax.models.pixels import network_input
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """Attributes:
    query: transformer of the dialogue.
    labels: transformer of the labels' text; None: they are not read.
    image: network of the pixels; None: they are not seen.
    shared: one set of weights serves dialogue and labels (then `labels` equals `query`).
    pooling: "cls" takes the first token's vector, "mean" averages those of the real tokens.
    joint_dim: width of the shared space that a linear layer per side maps to; None: no such
      layer, the towers' own width (not with pixels).
    logit_scale: factor on the cosine of the two vectors; its first value when it is learned.
    learn_scale: whether it is learned (as its logarithm, capped at ln 100 as CLIP does).
    logit_bias: first value of a learned number that is added to the scaled cosine (SigLIP); None:
      nothing is.
    """

    query: TransformerConfig
    labels: TransformerConfig | None = None
    image: ImageTowerConfig | None = None
    shared: bool = False
    pooling: Literal["cls", "mean"] = "cls"
    joint_dim: int | None = 512
    logit_scale: float = 1.0
    learn_scale: bool = False
    logit_bias: float | None = None

    def __post_init__(self):
        if self.labels is None and self.image is None:
            raise ValueError("a photo must be known by its labels, its pixels, or both")
        if self.image is not None and self.joint_dim is None:
            raise ValueError("with pixels a joint_dim is needed: the towers' widths differ")


class DualEncoder(nn.Module):
    """Vectors of unit length whose dot product says how well a photo fits a dialogue.

    A batch holds "query" and "photo", the texts: {"ids": int [B, L], "mask": bool [B, L]}; with
    pixels also "image" uint8 [B, S, S, 3], "has_image" bool [B] (a photo may be missing) and, in
    training, "mirror" bool [B].
    """

    config: DualEncoderConfig

    def setup(self):
        config = self.config
        self.query_tower = Transformer(config.query)
        if config.labels is not None and not config.shared:
            self.label_tower = Transformer(config.labels)
        if config.image is not None:
            self.image_tower = config.image.module()
        if config.joint_dim is not None:
            self.query_head = Projection((config.joint_dim,), ("embed",), ("joint",))
            self.photo_head = Projection((config.joint_dim,), ("embed",), ("joint",))
        if config.learn_scale:
            start = jnp.log(jnp.float32(config.logit_scale))
            self.log_scale = self.param("log_scale", lambda _: start)
        if config.logit_bias is not None:
            first = jnp.float32(config.logit_bias)
            self.logit_bias = self.param("logit_bias", lambda _: first)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Array]:
        """Outputs "query" and "photo", float32 [B, D], and "scale" and "bias", scalars."""
        return {
            "query": self.embed_query(batch, train=train),
            "photo": self.embed_photo(batch, train=train),
            "scale": self._scale(),
            "bias": jnp.float32(0) if self.config.logit_bias is None else self.logit_bias,
        }

    def embed_query(self, batch: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of dialogues."""
        pooled = self._read(self.query_tower, batch["query"], train)  # [B, D]
        return self._finish(pooled, "query_head")

    def embed_photo(self, batch: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of photos."""
        parts = []
        if self.config.image is not None:
            parts.append(self._see(batch, train))
        if self.config.labels is not None:
            tower = self.query_tower if self.config.shared else self.label_tower
            parts.append(self._read(tower, batch["photo"], train))
        pooled = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        return self._finish(pooled, "photo_head")

    def _read(self, tower: Any, side: Any, train: bool) -> Float[Array, "B D"]:
        hidden = tower(side["ids"], side["mask"], train=train)  # [B, L, D]
        return pool(hidden, side["mask"], self.config.pooling).astype(jnp.float32)

    def _see(self, batch: Any, train: bool) -> Float[Array, "B D"]:
        pixels = network_input(batch, self.config.image.dtype, train)
        seen = self.image_tower(pixels, train=train, present=batch["has_image"])  # [B, D]
        # A photo that could not be had says nothing; its labels, where they are read, still do.
        return jnp.where(batch["has_image"][:, None], seen, 0.0)

    def _finish(self, pooled: Float[Array, "B D"], head: str) -> Float[Array, "B D"]:
        if self.config.joint_dim is not None:
            pooled = getattr(self, head)(pooled)
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
