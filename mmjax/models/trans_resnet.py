"""TransResNet: which response goes with what was said, and with a photo?

Shuster et al., "Image-Chat: Engaging Grounded Conversations" (ACL 2020), section 4, without the
style branch; what the paper leaves open is as in its code, ParlAI's projects/image_chat.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.models.batch_norm import BatchNorm
from mmjax.models.dual_encoder import pool
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import Dropout, Projection, uniform_init
from mmjax.models.pixels import network_input
from mmjax.models.positions import SinusoidalPositions
from mmjax.models.presets import per_head
from mmjax.models.stack import Stack, StackConfig
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class TransResNetConfig:
    """Attributes:
    text: transformer of what was said, and (with weights of its own) of responses.
    image: network of the pixels; None: no photo is seen.
    shared: one set of weights for both sorts of text.
    hidden_dim: width of the space of the scores.
    image_layers: linear layers after the photo's features, with a ReLU between two.
    fusion: how the branches become one vector: their "sum", or the mean of what a further
      transformer makes of the sum ("transformer_sum") or of the branches in a row
      ("transformer_concat").
    fusion_layers: of that transformer.
    dropout: before each linear layer after a tower.
    """

    text: TransformerConfig
    image: ImageTowerConfig | None = None
    shared: bool = False
    hidden_dim: int = 300
    image_layers: int = 1
    fusion: Literal["sum", "transformer_sum", "transformer_concat"] = "sum"
    fusion_layers: int = 1
    dropout: float = 0.2

    def __post_init__(self):
        if self.fusion != "sum":
            per_head(self.hidden_dim, self.text.attention.heads)

    def fusion_stack(self) -> StackConfig:
        """The further transformer: of the text's parts, in the width of the scores."""
        text = self.text
        head_dim = per_head(self.hidden_dim, text.attention.heads)
        return StackConfig(
            width=self.hidden_dim,
            layers=self.fusion_layers,
            norm=text.norm,
            attention=text.attention.copy(head_dim=head_dim),
            feed_forward=text.feed_forward,
            dropout=text.dropout,
            dtype=text.dtype,
            unroll=self.fusion_layers,
        )


class TransResNet(nn.Module):
    """Vectors of contexts and of responses whose dot product says how well they fit.

    A batch holds "context" and "response", the texts: {"ids": int [B, L], "mask": bool [B, L]};
    with photos also "image" uint8 [B, S, S, 3], "has_image" bool [B] (most turns have none: their
    branch is zeros) and, in training, "mirror" bool [B].
    """

    config: TransResNetConfig

    def setup(self):
        config = self.config
        self.context_tower = Transformer(config.text)
        if not config.shared:
            self.response_tower = Transformer(config.text)
        self.text_head = _linear(config.text.width, config.hidden_dim)  # of both
        if config.image is not None:
            self.image_tower = config.image.module()
            # A network that is kept as it came has features of any size: these are always new.
            mode = "groups" if config.image.batch_norm == "groups" else "global"
            self.image_norm = BatchNorm(mode, config.image.batch_norm_group)
            widths = [config.image.width, *[config.hidden_dim] * config.image_layers]
            self.image_heads = [_linear(*pair) for pair in itertools.pairwise(widths)]
        if config.fusion != "sum":
            self.fusion = Stack(config.fusion_stack())
        self.dropout = Dropout(config.dropout)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Array]:
        """Outputs "context" and "response", float32 [B, D], and "scale", 1."""
        return {
            "context": self.embed_context(batch, train=train),
            "response": self.embed_response(batch, train=train),
            "scale": jnp.float32(1),
        }

    def embed_context(self, batch: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of what was said, and of the photo."""
        parts = [self._read(self.context_tower, batch["context"], train)]
        if self.config.image is not None:
            parts.insert(0, self._see(batch, train))
        if self.config.fusion == "transformer_concat":
            return self._fuse(jnp.stack(parts, axis=1), train)
        found = sum(parts)
        return found if self.config.fusion == "sum" else self._fuse(found[:, None], train)

    def embed_response(self, batch: Any, *, train: bool = False) -> Float[Array, "B D"]:
        """Vectors of responses."""
        tower = self.context_tower if self.config.shared else self.response_tower
        return self._read(tower, batch["response"], train)

    def _read(self, tower: Any, side: Any, train: bool) -> Float[Array, "B D"]:
        hidden = tower(side["ids"], side["mask"], train=train)  # [B, L, D]
        pooled = pool(hidden, side["mask"], "mean").astype(jnp.float32)
        return constrain(self.text_head(self._dropped(pooled, train)), "batch", None)

    def _see(self, batch: Any, train: bool) -> Float[Array, "B D"]:
        present = batch["has_image"]
        pixels = network_input(batch, self.config.image.dtype, train)
        seen = self.image_tower(pixels, train=train, present=present)  # [B, D]
        seen = self.image_norm(seen[:, None, None], train, present)[:, 0, 0]
        for number, head in enumerate(self.image_heads):
            seen = head(self._dropped(nn.relu(seen) if number else seen, train))
        return constrain(jnp.where(present[:, None], seen, 0.0), "batch", None)

    def _fuse(self, parts: Float[Array, "B N D"], train: bool) -> Float[Array, "B D"]:
        count = parts.shape[1]
        places = SinusoidalPositions(count, parent=None)(jnp.arange(count), parts.shape[-1])
        mask = jnp.ones(parts.shape[:2], bool)
        dtype = jnp.dtype(self.config.text.dtype)
        fused = self.fusion.run((parts + places).astype(dtype), mask, train)
        return constrain(fused.astype(jnp.float32).mean(axis=1), "batch", None)

    def _dropped(self, x: Float[Array, "B D"], train: bool) -> Float[Array, "B D"]:
        # Its masks are drawn over the last axis but one, which is never cut; the batch may be.
        return self.dropout(x[:, None], train)[:, 0]


class ContextClassifier(TransResNet):
    """Logits of what was said, and of the photo, from their one vector.

    Its parts have the names that they have in a `TransResNet`, from which it may begin. A batch as
    there, without responses.
    """

    classes: int = 2

    def setup(self):
        super().setup()
        self.head = Projection((self.classes,), ("joint",), (None,), std=None)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Float[Array, "B 1 C"]]:
        return {"logits": self.head(self.embed_context(batch, train=train))[:, None]}


def _linear(inputs: int, width: int) -> Projection:
    # As PyTorch's begin. The scores are not divided by anything: larger vectors would make of the
    # first softmax a choice of one at random, from which it takes long to come back.
    return Projection((width,), ("embed",), ("joint",), init_kernel=uniform_init(inputs**-0.5))
