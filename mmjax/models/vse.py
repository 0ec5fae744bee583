"""VSE++: a text and a photo, each as one vector, matched by hardest negatives.

Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives" (BMVC 2018).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.models.dual_encoder import unit_length
from mmjax.models.gru import GruConfig
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import Projection, xavier_uniform
from mmjax.models.pixels import network_input
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class VseConfig:
    """Attributes:
    text: unit whose state after the last word is the text's vector; it reads one way.
    image: network of the pixels; its pooled features are mapped to the width of `text`.
    """

    text: GruConfig
    image: ImageTowerConfig

    def __post_init__(self):
        if self.text.both_ways:
            raise ValueError("VSE++ takes a last state: both_ways must be False")


class Vse(nn.Module):
    """Vectors of unit length whose dot product says how well a photo fits a text.

    A batch holds "query": {"ids": int [B, L], "mask": bool [B, L]}, "image" uint8 [B, S, S, 3],
    "has_image" bool [B] (a photo may be missing: zeros) and, in training, "mirror" bool [B].
    """

    config: VseConfig

    def setup(self):
        config = self.config
        self.query_tower = config.text.module()
        self.image_tower = config.image.module()
        self.photo_head = Projection(
            (config.text.width,), ("embed",), ("joint",), init_kernel=xavier_uniform
        )

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Array]:
        """Outputs "query" and "photo", float32 [B, D], and "scale" and "bias", scalars."""
        return {
            "query": self.embed_query(batch, train=train),
            "photo": self.embed_photo(batch, train=train),
            "scale": jnp.float32(1),
            "bias": jnp.float32(0),
        }

    def embed_query(self, batch: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of texts."""
        side = batch["query"]
        states = self.query_tower(side["ids"], side["mask"], train=train)  # [B, L, D]
        return constrain(unit_length(states[:, -1]), "batch", None)

    def embed_photo(self, batch: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of photos."""
        present = batch["has_image"]
        pixels = network_input(batch, self.config.image.dtype, train)
        seen = unit_length(self.image_tower(pixels, train=train, present=present))
        found = jnp.where(present[:, None], self.photo_head(seen), 0)
        return constrain(unit_length(found), "batch", None)
