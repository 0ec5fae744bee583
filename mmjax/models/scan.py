"""SCAN: a text as vectors of its words, a photo as vectors of its regions.

Lee et al., "Stacked Cross Attention for Image-Text Matching" (ECCV 2018), section 3.1; how well
they fit, `stacked_cross_attention` says. Regions come with the batch (the paper's: 36 of a Faster
R-CNN, 2048 wide), or are the cells of the grid that a network of the pixels gives, or averages over
boxes in it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.box_pooling import pool_boxes
from mmjax.models.gru import GruConfig
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import Projection, xavier_uniform
from mmjax.models.pixels import network_boxes, network_input
from mmjax.models.transformer import TransformerConfig
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class ScanConfig:
    """Attributes:
    text: encoder of the words; the paper's is a GRU both ways.
    image: network whose grid are the regions; None: they come with the batch.
    joint_dim: width of the vectors; a linear layer maps the regions to it, and the words where
      their encoder has another width.
    dtype: of the vectors that are compared; their scores are float32.
    boxes: the regions are the batch's boxes in the grid, and not its cells.
    """

    text: GruConfig | TransformerConfig
    image: ImageTowerConfig | None = None
    joint_dim: int = 1024
    dtype: str = "float32"
    boxes: bool = False


class Scan(nn.Module):
    """Vectors of unit length, one per word ([CLS] and [SEP] are words too) and one per region.

    A batch holds "query": {"ids": int [B, L], "mask": bool [B, L]}; and "regions": float [B, R, F]
    with "region_mask": bool [B, R]; or, for a network of the pixels, "image" uint8 [B, S, S, 3],
    "has_image" bool [B] (a photo may be missing: it has no region) and, in training, "mirror"; and
    for boxes in them "boxes" float [B, R, 4], see `pool_boxes`, with "box_mask" bool [B, R].
    """

    config: ScanConfig

    def setup(self):
        config = self.config
        joint = (config.joint_dim,), ("embed",), ("joint",)
        self.query_tower = config.text.module()
        if config.text.width != config.joint_dim:
            self.query_head = Projection(*joint, jnp.dtype(config.dtype))
        if config.image is not None:
            self.image_tower = config.image.module()
        self.photo_head = Projection(*joint, jnp.dtype(config.dtype), init_kernel=xavier_uniform)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Any]:
        """Outputs as of `embed_query` and `embed_photo`, and "scale" and "bias", scalars."""
        return {
            "query": self.embed_query(batch, train=train),
            "photo": self.embed_photo(batch, train=train),
            "scale": jnp.float32(1),
            "bias": jnp.float32(0),
        }

    def embed_query(self, batch: Any, *, train: bool = False) -> dict[str, Array]:
        """{"words": [B, L, D], 0 at padding, "mask": bool [B, L]}."""
        ids, mask = batch["query"]["ids"], batch["query"]["mask"]
        words = self.query_tower(ids, mask, train=train)
        if self.config.text.width != self.config.joint_dim:
            words = self.query_head(words)
        return {"words": self._finish(words, mask), "mask": mask}

    def embed_photo(self, batch: Any, *, train: bool = False) -> dict[str, Array]:
        """{"regions": [B, R, D], 0 where there is none, "mask": bool [B, R]}."""
        if self.config.image is None:
            regions, mask = batch["regions"], batch["region_mask"]
        else:
            pixels = network_input(batch, self.config.image.dtype, train)
            present = batch["has_image"]
            grid = self.image_tower.grid(pixels, train, present)  # [B, h, w, F]
            if self.config.boxes:
                regions = pool_boxes(grid, network_boxes(batch, train))
                mask = present[:, None] & batch["box_mask"]
            else:
                regions = grid.reshape(grid.shape[0], -1, grid.shape[-1])
                mask = jnp.broadcast_to(present[:, None], regions.shape[:2])
        regions = jnp.where(mask[..., None], regions, 0)
        return {"regions": self._finish(self.photo_head(regions), mask), "mask": mask}

    def _finish(self, x: Float[Array, "B n D"], mask: Bool[Array, "B n"]) -> Float[Array, "B n D"]:
        # where, and not a product: what stands at padding is undefined and may be NaN.
        x = jnp.where(mask[..., None], x.astype(jnp.float32), 0)
        square = jnp.square(x).sum(-1, keepdims=True)
        # The paper's code adds 1e-8 to the length; the square root has no derivative at 0.
        x = x / (jnp.sqrt(jnp.where(square > 0, square, 1)) + 1e-8)
        return constrain(x.astype(self.config.dtype), "batch", "length", None)
