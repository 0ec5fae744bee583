"""What a decoder keeps of the tokens that it has read, so that the next one costs only itself.

Its shapes never change. Of each prompt there is one copy, however many branches (the beams of a
search, or several samples) go on from it. A branch is never copied when it splits: every new token
has a slot of its own for good, and `Cache.visible` says which slots a branch descends from.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.parallel.rules import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Keys and values of one attention, a token in each of M slots.

    In the order of axes that the products want: another would be a copy of all at every step.
    """

    key: Float[Array, "B H K M"]
    value: Float[Array, "B H M K"]

    @classmethod
    def empty(cls, batch: int, heads: int, head_dim: int, slots: int, dtype: Any) -> KeyValues:
        def zeros(*shape: int) -> Array:
            return constrain(jnp.zeros(shape, dtype), "batch", "act_heads", None, None)

        return cls(zeros(batch, heads, head_dim, slots), zeros(batch, heads, slots, head_dim))

    def write(
        self, key: Float[Array, "B L H K"], value: Float[Array, "B L H K"], slot: Any
    ) -> KeyValues:
        """With the tokens in the L slots from `slot` on."""
        key, value = jnp.moveaxis(key, 1, 3), jnp.moveaxis(value, 1, 2)
        return KeyValues(
            jax.lax.dynamic_update_slice(self.key, key.astype(self.key.dtype), (0, 0, 0, slot)),
            jax.lax.dynamic_update_slice(
                self.value, value.astype(self.value.dtype), (0, 0, slot, 0)
            ),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """Attributes:
    own: of the tokens.
    memory: of what the layer's cross-attention sees; None: it has none.
    """

    own: KeyValues
    memory: KeyValues | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The state of a decoder that writes K branches for each of B prompts.

    Attributes:
    layers: of each layer.
    weights: of each layer, cut out of the stacked ones once and not at every step.
    visible: which slots hold a real token that the branch has read.
    memory_mask: True at real tokens of the memory; None: there is no memory.
    position: of the next token.
    slot: the first one of the next tokens.
    segment: of every new token; None: the model has none.
    prompt: slots before the first new token.
    """

    layers: tuple[LayerCache, ...]
    weights: tuple[Any, ...]
    visible: Bool[Array, "B K M"]
    memory_mask: Bool[Array, "B N"] | None
    position: Int[Array, " B"]
    slot: Int[Array, ""]
    segment: Int[Array, " B"] | None
    prompt: int = dataclasses.field(metadata={"static": True})

    @property
    def branches(self) -> int:
        return self.visible.shape[1]

    @property
    def steps(self) -> int:
        """How many tokens per branch there is room for."""
        return (self.visible.shape[2] - self.prompt) // self.branches

    def reorder(self, parents: Int[Array, "B K"]) -> Cache:
        """With branch k going on from where branch `parents[:, k]` is."""
        visible = jnp.take_along_axis(self.visible, parents[:, :, None], axis=1)
        return dataclasses.replace(self, visible=visible)

    def before_step(self) -> Cache:
        """With each branch's next token visible to itself alone."""
        batch, branches, _ = self.visible.shape
        own = jnp.broadcast_to(jnp.eye(branches, dtype=bool), (batch, branches, branches))
        visible = jax.lax.dynamic_update_slice(self.visible, own, (0, 0, self.slot))
        return dataclasses.replace(self, visible=visible)

    def after_step(self, layers: tuple[LayerCache, ...]) -> Cache:
        return dataclasses.replace(
            self, layers=layers, position=self.position + 1, slot=self.slot + self.branches
        )

    def distances(self) -> Int[Array, " M"]:
        """From the next tokens back to what stands in each slot, in tokens; 0 or below."""
        after = jnp.arange(self.visible.shape[2]) - self.prompt
        time = jnp.where(after < 0, after, after // self.branches)
        return time - (self.slot - self.prompt) // self.branches
