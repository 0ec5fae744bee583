"""CLIP: a text and a photo, each as one vector in a shared space (Radford et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.dual_encoder import unit_length
from mmjax.models.layers import Projection
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from mmjax.parallel.rules import constrain


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Attributes:
    joint_dim: width of the shared space.
    log_scale: first value of the logarithm of the factor on the cosine of two vectors, which is
      learned.
    """

    text: TransformerConfig
    image: VisionTransformerConfig
    joint_dim: int = 512
    log_scale: float = 2.6592  # ln(1 / 0.07)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size


class Clip(nn.Module):
    """Vectors of unit length whose dot product says how well a photo fits a text."""

    config: ClipConfig

    def setup(self):
        config = self.config
        self.text_tower = Transformer(config.text)
        self.image_tower = VisionTransformer(config.image)
        self.text_head = Projection((config.joint_dim,), ("embed",), ("joint",), use_bias=False)
        self.image_head = Projection((config.joint_dim,), ("embed",), ("joint",), use_bias=False)
        self.log_scale = self.param("log_scale", lambda _: jnp.float32(config.log_scale))

    def __call__(
        self,
        ids: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
        pixels: Float[Array, "C S S 3"],
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Outputs "text" and "image", float32 [B, D] and [C, D], and "scale", a scalar."""
        return {
            "text": self.embed_text(ids, mask, train=train),
            "image": self.embed_image(pixels, train=train),
            "scale": jnp.exp(self.log_scale),
        }

    def embed_text(
        self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"], *, train: bool = False
    ) -> Float[Array, "B D"]:
        """Vectors of texts: of the last real token, which is to be the one that ends a text."""
        hidden = self.text_tower(ids, mask, train=train)  # [B, L, D]
        return self._finish(last_token(hidden, mask), self.text_head)

    def embed_image(
        self, pixels: Float[Array, "B S S 3"], *, train: bool = False
    ) -> Float[Array, "B D"]:
        """Vectors of photos; `pixels` are normalised as the weights want them."""
        return self._finish(self.image_tower(pixels, train=train)[:, 0], self.image_head)

    def _finish(self, pooled: Float[Array, "B D"], head: Projection) -> Float[Array, "B D"]:
        return constrain(unit_length(head(pooled).astype(jnp.float32)), "batch", None)


def last_token(hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The vector of each row's last real token; of the first one in a row without any."""
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1]), 0), axis=1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
