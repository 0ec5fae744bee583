"""Copying what was read: a pointer-generator beside a decoder's words (See et al. 2017, 2.2)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.attention import MASKED
from mmjax.models.cache import Cache
from mmjax.models.layers import Projection


class CopyHead(nn.Module):
    """p(w) = g p_words(w) + (1 - g) times the attention to the tokens that were read and are w.

    Attention and g are functions of the decoder's last vectors, in float32. The key of a token is
    made of its own vector and the one before: who has just written what stands before a token finds
    by it what comes next.
    """

    width: int

    def setup(self):
        def project(width: int, use_bias: bool = True) -> Projection:
            return Projection((width,), ("embed",), ("joint",), jnp.float32, use_bias, std=None)

        self.query = project(self.width)
        self.own, self.before = project(self.width), project(self.width, use_bias=False)
        self.gate = project(1)

    def __call__(
        self,
        hidden: Float[Array, "B L D"],
        word_losses: Float[Array, "B L"],
        ids: Int[Array, "B L"],
        labels: Int[Array, "B L"],
        visible: Bool[Array, "B l L"],
        first: Bool[Array, "B L"],
    ) -> Float[Array, "B L"]:
        """-log p(label) at each place, float32.

        Args:
          word_losses: -log p_words(label).
          visible: the tokens that may be copied (l is L, or 1 where they are the same for all
            places).
          first: where a dialogue begins, whatever stands before.
        """
        scores = self._scores(hidden, self.keys(hidden, first), visible)  # [B, L, L]
        right = visible & (ids[:, None, :] == labels[:, :, None])
        found = jax.nn.logsumexp(jnp.where(right, scores, MASKED), axis=-1)
        copied = found - jax.nn.logsumexp(scores, axis=-1)
        words, copies = self._gates(hidden)
        return -jnp.logaddexp(words - word_losses, copies + copied)

    def keys(
        self, hidden: Float[Array, "B L D"], first: Bool[Array, "B L"]
    ) -> Float[Array, "B L K"]:
        """What tokens are found by."""
        before = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
        before = jnp.where(first[..., None], 0, before)
        return self.own(hidden.astype(jnp.float32)) + self.before(before.astype(jnp.float32))

    def log_p(
        self,
        hidden: Float[Array, "B K D"],
        logits: Float[Array, "B K V"],
        keys: Float[Array, "B M E"],
        ids: Int[Array, "B M"],
        visible: Bool[Array, "B M"],
    ) -> Float[Array, "B K V"]:
        """Of every word as the next one.

        Args:
          logits: of the words.
        """
        attention = jax.nn.softmax(self._scores(hidden, keys, visible[:, None, :]), axis=-1)
        attention = jnp.where(visible[:, None, :], attention, 0)
        B, K, V = logits.shape
        rows = jnp.arange(B)[:, None]
        copied = jnp.zeros((B, V, K)).at[rows, ids].add(jnp.swapaxes(attention, 1, 2))
        copied = jnp.swapaxes(copied, 1, 2)
        copied = jnp.where(copied > 0, jnp.log(jnp.where(copied > 0, copied, 1)), MASKED)
        words, copies = (x[..., None] for x in self._gates(hidden))
        return jnp.logaddexp(words + jax.nn.log_softmax(logits), copies + copied)

    def _scores(self, hidden: Array, keys: Array, visible: Array) -> Array:
        query = self.query(hidden.astype(jnp.float32))
        scores = jnp.einsum("blk,bmk->blm", query, keys) * self.width**-0.5
        return jnp.where(visible, scores, MASKED)

    def _gates(self, hidden: Array) -> tuple[Array, Array]:
        """log g and log (1 - g)."""
        gate = self.gate(hidden.astype(jnp.float32))[..., 0]
        return jax.nn.log_sigmoid(gate), jax.nn.log_sigmoid(-gate)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CopyCache:
    """The state of a decoder that copies, while it writes.

    Attributes:
      decoder: its own.
      keys, ids, visible: of the M tokens that were read.
    """

    decoder: Cache
    keys: Float[Array, "B M E"]
    ids: Int[Array, "B M"]
    visible: Bool[Array, "B M"]

    def reorder(self, parents: Int[Array, "B K"]) -> CopyCache:
        """With branch k going on from where branch `parents[:, k]` is."""
        return dataclasses.replace(self, decoder=self.decoder.reorder(parents))
