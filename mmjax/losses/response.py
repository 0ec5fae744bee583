"""The loss of a decoder: where the next token is one of a response."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def response_loss(outputs: Any, batch: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum of -log p of the responses' tokens, their number), float32.

    Args:
      outputs: "losses" [B, L], -log p of the token after each.
      batch: "response", {"ids": int [B, L], "mask"}, 1 at the tokens that are learned and 0 at
        those that are only read; "weight" [B]; "dialogue", where rows hold several.
    """
    weights = next_is_learned(batch) * batch["weight"][:, None].astype(jnp.float32)
    # where, and not the product alone: the loss of a token that does not count may be infinite.
    losses = jnp.where(weights > 0, outputs["losses"], 0)
    return jnp.sum(losses * weights), jnp.sum(weights)


def next_is_learned(batch: Any) -> Float[Array, "B L"]:
    """1 where the token after is a real one of a response, else 0.

    A dialogue's first token is never learned: nothing comes before it.
    """

    def after(x: Array, last: int) -> Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=last)

    learned = after(batch["response"]["ids"] * batch["response"]["mask"], 0)
    if "dialogue" in batch:
        number = batch["dialogue"]["ids"]
        learned *= number == after(number, -1)
    return learned.astype(jnp.float32)
