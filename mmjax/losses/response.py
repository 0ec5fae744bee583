"""The loss of a decoder: where the next token is one of a response, or of what is read."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.models.decoder import read_tokens


def response_loss(
    outputs: Any, batch: Any, *, read_weight: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(weighted sum of -log p of tokens, sum of the weights), float32.

    Args:
      outputs: "losses" [B, L], -log p of the token after each.
      batch: "text" and "response", {"ids": int [B, L], "mask"}, of which the latter is 1 at the
        tokens that are learned and 0 at those that are only read; "image_at", which is not 0 at
        those that are no words; "weight" [B]; "dialogue", where rows hold several.
      read_weight: of a token that is only read; of one that is learned it is 1.
    """
    weights = next_is_learned(batch)
    if read_weight:
        weights = weights + read_weight * next_is_read(batch)
    weights = weights * batch["weight"][:, None].astype(jnp.float32)
    # where, and not the product alone: the loss of a token that does not count may be infinite.
    losses = jnp.where(weights > 0, outputs["losses"], 0)
    return jnp.sum(losses * weights), jnp.sum(weights)


def next_is_learned(batch: Any) -> Float[Array, "B L"]:
    """1 where the token after is a real one of a response, else 0.

    A dialogue's first token is never learned: nothing comes before it.
    """
    return _next_in_dialogue(batch["response"]["ids"] * batch["response"]["mask"], batch)


def next_is_read(batch: Any) -> Float[Array, "B L"]:
    """1 where the token after is a real one that is only read, and no image; else 0."""
    return _next_in_dialogue(read_tokens(batch), batch)


def _next_in_dialogue(x: Any, batch: Any) -> Float[Array, "B L"]:
    """Of the token after each; 0 where it is another dialogue's."""

    def after(x: Array, last: int) -> Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=last)

    found = after(x, 0)
    if "dialogue" in batch:
        number = batch["dialogue"]["ids"]
        found *= number == after(number, -1)
    return found.astype(jnp.float32)
