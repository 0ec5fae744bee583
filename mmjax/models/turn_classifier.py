"""Yes or no after the turns of a dialogue (PhotoChat, 5.1): a text encoder with a small head."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.layers import Projection
from mmjax.models.packed_rows import packed_mask, packed_numbers, packed_positions
from mmjax.models.transformer import Transformer, TransformerConfig

ACTIVATIONS = {"tanh": jnp.tanh, "relu": nn.relu, "none": lambda x: x}


@dataclasses.dataclass(frozen=True)
class TurnClassifierConfig:
    """Attributes:
    encoder: transformer of the dialogue's text.
    hidden_dim: width of the layer between the token that is read and the logits; None: there is
      no such layer.
    activation: after that layer.
    classes: number of logits.
    """

    encoder: TransformerConfig
    hidden_dim: int | None = 128
    activation: Literal["tanh", "relu", "none"] = "tanh"
    classes: int = 2


class TurnClassifier(nn.Module):
    """Logits read from some tokens of each dialogue.

    A batch holds, each as {"ids": int [B, L or T], "mask": bool}: of the tokens "text" and
    "speaker", and of the places where logits are read "place", positions of tokens. With "turn",
    the number of each token's turn, a token sees its own turn and those before, so that what is
    read at the end of a turn does not depend on later ones; without it, it sees all. With
    "dialogue", the number of each token's dialogue, rows hold several: a token sees its own alone,
    and its position there counts.
    """

    config: TurnClassifierConfig

    @nn.compact
    def __call__(self, batch: Any, *, train: bool) -> dict[str, Float[Array, "B T C"]]:
        config = self.config
        text, mask, positions = batch["text"], batch["text"]["mask"], None
        if "dialogue" in batch:
            number = batch["dialogue"]["ids"]
            see = packed_mask if "turn" in batch else packed_numbers
            mask, positions = see(number, mask), packed_positions(number, mask)
        if "turn" in batch:
            mask = turn_causal_mask(batch["turn"]["ids"], mask)
        segments = None
        if config.encoder.segments:  # more speakers than there are segments share the last
            segments = jnp.minimum(batch["speaker"]["ids"], config.encoder.segments - 1)
        encoder = Transformer(config.encoder, name="text_tower")
        hidden = encoder(  # [B, L, D]
            text["ids"], mask, segments, positions=positions, train=train
        )
        read = jnp.take_along_axis(hidden, batch["place"]["ids"][..., None], axis=1)  # [B, T, D]
        inputs = "embed"
        if config.hidden_dim is not None:
            read = Projection((config.hidden_dim,), ("embed",), ("joint",), name="hidden")(read)
            read, inputs = ACTIVATIONS[config.activation](read), "joint"
        logits = Projection((config.classes,), (inputs,), (None,), name="head")(read)
        return {"logits": logits.astype(jnp.float32)}


def turn_causal_mask(turn: Int[Array, "B L"], mask: Bool[Array, "B *L L"]) -> Bool[Array, "B L L"]:
    """Which tokens (last axis) each token may see: real ones of its own turn and of those before.

    Args:
      turn: number of each token's turn, rising within a dialogue.
      mask: True at real tokens, or [B, L, L] at those that each token may see of all turns.
    """
    mask = mask[:, None, :] if mask.ndim == 2 else mask
    return (turn[:, None, :] <= turn[:, :, None]) & mask
