"""The vision transformer: a photo cut into patches, which a stack of layers reads as words."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.models.layers import INITIAL_STD, Dropout, Projection, normal_init
from mmjax.models.positions import LearnedPositions
from mmjax.models.stack import Stack, StackConfig
from mmjax.parallel.rules import constrain


@dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig(StackConfig):
    """A stack, and what makes vectors of a photo's patches (Dosovitskiy et al. 2021, 3.1).

    Attributes:
    image_size: side of the photos, in pixels; a multiple of `patch_size`.
    patch_bias: the patches' projection has a bias.
    embedding_norm: the patches' vectors are normalised before the first layer (CLIP).
    """

    image_size: int
    patch_size: int
    patch_bias: bool = True
    embedding_norm: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"photos of {self.image_size} pixels do not divide into patches of "
                f"{self.patch_size}"
            )

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class VisionTransformer(Stack):
    """Encodes photos: one vector for the whole, then one per patch, row by row.

    `pixels` are normalised as the weights want them. With `train=True` dropout is on and needs
    the rng "dropout". Raises ValueError for photos of another size than the config's.
    """

    config: VisionTransformerConfig

    def setup(self):
        super().setup()
        self.embeddings = Patches(self.config)

    def __call__(
        self, pixels: Float[Array, "B S S 3"], *, train: bool = False
    ) -> Float[Array, "B N D"]:
        size = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"photos of shape {pixels.shape}; [batch, {size}, {size}, 3] is needed"
            )
        x = self.embeddings(pixels, train)
        return self.run(x, jnp.ones(x.shape[:2], bool), train)


class Patches(nn.Module):
    """A learned vector, then one per patch; each with its place's vector added."""

    config: VisionTransformerConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "B S S 3"], train: bool) -> Float[Array, "B N D"]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        side, patch = config.image_size // config.patch_size, config.patch_size
        x = pixels.reshape(-1, side, patch, side, patch, 3).swapaxes(2, 3)
        x = x.reshape(-1, side * side, patch, patch, 3)
        project = Projection(
            (config.width,),
            ("spatial", "spatial", "channels_in"),
            ("embed",),
            dtype,
            config.patch_bias,
            name="patch",
        )
        first = self.param(
            "class",
            nn.with_logical_partitioning(normal_init(INITIAL_STD), ("embed",)),
            (config.width,),
            jnp.float32,
        )
        first = jnp.broadcast_to(first.astype(dtype), (x.shape[0], 1, config.width))
        x = jnp.concatenate([first, project(x)], axis=1)  # [B, N, D]
        position = LearnedPositions(x.shape[1], dtype=dtype, name="position")
        x = x + position(jnp.arange(x.shape[1]), config.width)
        if config.embedding_norm:
            x = config.norm.copy(name="norm", dtype=dtype)(x)
        x = Dropout(config.dropout)(x, train)
        return constrain(x, "batch", "length", "act_embed")
