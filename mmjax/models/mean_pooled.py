"""Texts and photos as pretrained networks see them, for neighbours to be looked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.models.dual_encoder import pool
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.pixels import network_input
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class MeanPooledConfig:
    """Attributes:
    text: transformer; None: texts are not read.
    image: network of the pixels; None: photos are not seen.
    """

    text: TransformerConfig | None = None
    image: ImageTowerConfig | None = None


class MeanPooled(nn.Module):
    """Means of the last layer: over the real tokens, special ones too, and over a photo's grid.

    A batch holds "context": {"ids": int [B, L], "mask": bool [B, L]}; with photos also "image"
    uint8 [B, S, S, 3] and "has_image" bool [B].
    """

    config: MeanPooledConfig

    def setup(self):
        if self.config.text is not None:
            self.text_tower = Transformer(self.config.text)
        if self.config.image is not None:
            self.image_tower = self.config.image.module()

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Array]:
        """Outputs "text" and "image", of those that there are."""
        found = {}
        if self.config.text is not None:
            found["text"] = self.embed_text(batch)
        if self.config.image is not None:
            found["image"] = self.embed_image(batch)
        return found

    def embed_text(self, batch: Any) -> Float[Array, "B D"]:
        """Vectors of what was said, float32."""
        side = batch["context"]
        hidden = self.text_tower(side["ids"], side["mask"])
        return constrain(pool(hidden, side["mask"], "mean").astype(jnp.float32), "batch", None)

    def embed_image(self, batch: Any) -> Float[Array, "B D"]:
        """Vectors of photos, float32; zeros where there is none."""
        pixels = network_input(batch, self.config.image.dtype, train=False)
        return self.image_tower(pixels, present=batch["has_image"])
