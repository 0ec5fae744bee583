"""The one transformer: a stack of equal layers, put together from the parts a config names.

A family of models (BERT, MiniLM) is a choice of parts in `presets.py`, never a branch in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.attention import Attention
from mmjax.models.layers import (
    Dropout,
    FeedForward,
    LayerNorm,
    LearnedPositions,
    Table,
    round_up,
)
from mmjax.parallel.rules import constrain

# 128 is the width of a TPU register row, and divides by any usual number of devices, which a
# real vocabulary (BERT's 30,522) does not.
VOCAB_MULTIPLE = 128

# What the backward pass finds stored instead of computing again. "none" stores everything.
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer's parts and sizes.

    `norm`, `position`, `attention` and `feed_forward` are modules outside any model; the
    transformer copies them where they are needed. `unroll` layers make one trip of the loop over
    layers: 1 compiles fastest, all of them run fastest on a CPU. `dtype` is what is computed in;
    parameters, softmax and norm are float32.
    """

    vocab_size: int
    width: int
    layers: int
    norm: LayerNorm
    position: LearnedPositions
    attention: Attention
    feed_forward: FeedForward
    segments: int = 2
    dropout: float = 0.1
    dtype: str = "float32"
    unroll: int = 1
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"remat={self.remat!r} is none of {sorted(REMAT_POLICIES)}")
        if self.unroll < 1:
            raise ValueError(f"unroll={self.unroll} must be at least 1 (layers per loop trip)")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is neither 'float32' nor 'bfloat16'")

    @property
    def padded_vocab_size(self) -> int:
        return round_up(self.vocab_size, VOCAB_MULTIPLE)


class Transformer(nn.Module):
    """Encodes rows of token ids: one vector per token.

    `mask` is [B, L], True at real tokens, which every token sees; or [B, L, M], True where token
    l sees token m (causal, or several texts packed into one row). What comes out at padding is
    undefined. `segments` says which of the config's segments a token belongs to (all 0 when None),
    `positions` where it stands in its text (0, 1, 2, ... when None; packed texts begin at 0 each).
    With `train=True` dropout is on and needs the rng "dropout". Raises ValueError when L is beyond
    the positions there are; a value of `positions` that is gives NaN.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "B L"],
        mask: Bool[Array, "B *L L"],
        segments: Int[Array, "B L"] | None = None,
        *,
        positions: Int[Array, "B L"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        config = self.config
        _check_input(config, ids, mask, segments, positions)
        x = Embeddings(config, name="embeddings")(ids, segments, positions, train)
        x, _ = _stack(config)(config, train, name="layers")(x, mask)
        return x


class Embeddings(nn.Module):
    """Word + position + segment, normalised (Devlin et al. 2019, figure 2)."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "B L"],
        segments: Int[Array, "B L"] | None,
        positions: Int[Array, "B L"] | None,
        train: bool,
    ) -> Float[Array, "B L D"]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        words = Table(
            config.vocab_size, config.width, "vocab", config.padded_vocab_size, dtype, name="word"
        )
        segment = Table(config.segments, config.width, "segment", dtype=dtype, name="segment")
        position = config.position.copy(name="position", dtype=dtype)
        norm = config.norm.copy(name="norm", dtype=dtype)
        x = constrain(words(ids), "batch", "length", "act_embed")  # [B, L, D]
        x = x + position(jnp.arange(ids.shape[1]) if positions is None else positions, config.width)
        x = x + segment(jnp.zeros_like(ids) if segments is None else segments)
        x = Dropout(config.dropout)(norm(x), train)
        return constrain(x, "batch", "length", "act_embed")


class PostNormLayer(nn.Module):
    """Attention and feed-forward, each added to its input and then normalised."""

    config: TransformerConfig
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: Bool[Array, "B *L L"]
    ) -> tuple[Float[Array, "B L D"], None]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = Dropout(config.dropout)
        attention = config.attention.copy(name="attention", dtype=dtype)
        attention_norm = config.norm.copy(name="attention_norm", dtype=dtype)
        feed_forward = config.feed_forward.copy(name="feed_forward", dtype=dtype)
        feed_forward_norm = config.norm.copy(name="feed_forward_norm", dtype=dtype)
        x = attention_norm(x + dropout(attention(x, mask, self.train), self.train))
        x = constrain(x, "batch", "length", "act_embed")
        x = feed_forward_norm(x + dropout(feed_forward(x), self.train))
        return constrain(x, "batch", "length", "act_embed"), None  # None: scan stacks nothing


def _stack(config: TransformerConfig) -> Any:
    """PostNormLayer scanned over the layers, its parameters stacked along a first axis."""
    layer = PostNormLayer
    if config.remat != "none":
        # Where all layers stand in one body, XLA would find the recomputation to be a common
        # subexpression of the forward pass and undo it; inside a loop it cannot.
        layer = nn.remat(
            layer,
            policy=REMAT_POLICIES[config.remat],
            prevent_cse=config.unroll >= config.layers,
        )
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=config.layers,
        unroll=config.unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def _check_input(
    config: TransformerConfig,
    ids: Array,
    mask: Array,
    segments: Array | None,
    positions: Array | None,
):
    if ids.ndim != 2:
        raise ValueError(f"ids have shape {ids.shape}; [batch, length] is needed")
    if mask.shape not in (ids.shape, (*ids.shape, ids.shape[1])):
        raise ValueError(
            f"mask has shape {mask.shape}, but ids have {ids.shape}: the same is needed, or one "
            "more axis of that length for who sees whom"
        )
    for name, array in (("segments", segments), ("positions", positions)):
        if array is not None and array.shape != ids.shape:
            raise ValueError(f"{name} has shape {array.shape}, but ids have {ids.shape}")
    if positions is None and ids.shape[1] > config.position.max_positions:
        raise ValueError(
            f"rows of {ids.shape[1]} tokens: the model has {config.position.max_positions} "
            "positions; clip the input to that length"
        )
