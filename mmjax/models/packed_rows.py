"""Rows that hold several dialogues: what a token sees of its row, and where it stands.

A dialogue is known by its number, the same at all of its tokens, which stand together.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def packed_mask(dialogue: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Bool[Array, "B L L"]:
    """Which tokens (last axis) each token may see of its dialogue; later ones too."""
    return (dialogue[:, :, None] == dialogue[:, None, :]) & mask[:, None, :]


def packed_numbers(dialogue: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """The same for `Attention`: numbers from 1, and 0 at padding."""
    return jnp.where(mask, dialogue + 1, 0)


def packed_positions(dialogue: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """Where each token stands in its dialogue, from 0; 0 at padding.

    Padding may be longer than any dialogue, and what has no position becomes NaN.
    """
    place = jnp.arange(dialogue.shape[1])
    first = jnp.pad(dialogue[:, 1:] != dialogue[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return jnp.where(mask, place - jax.lax.cummax(jnp.where(first, place, 0), axis=1), 0)
