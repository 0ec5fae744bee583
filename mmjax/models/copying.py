"""Copying what was read: spans of it, beside a decoder's own words.

A pointer-generator (See et al. 2017, 2.2) looks for every single token anew, and loses its way
where one stands twice. Here the token before may have been copied from some place, and then the
copy may go on with the next one. Which place that was is not known where a token stands twice: all
are added up, as by the forward algorithm of a hidden Markov model, whose state is the place.
"""

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
    """The next token's probability; of f(j), that the token before was copied from j - 1:

        p(w) = sum_j f(j) c(j) [token j is w] + (1 - sum_j f(j) c(j)) n(w)
        n(w) = g p_words(w) + (1 - g) sum_j a(j) [token j is w]

    c(j) is the probability that a copy goes on with token j; otherwise one begins anew, with a word
    of the vocabulary or one that the attention a finds among those that were read. f is 0 at first,
    and after a token w it is, one place further, the share that each j has in p(w).

    a, c and g are functions of the decoder's last vectors, in float32. The key of a token is made
    of its own vector and the one before: who has just written what stands before a token finds by
    it what comes next.
    """

    width: int

    def setup(self):
        def project(width: int, use_bias: bool = True) -> Projection:
            return Projection((width,), ("embed",), ("joint",), jnp.float32, use_bias, std=None)

        self.query, self.query_on = project(self.width), project(self.width)
        self.own, self.before = project(self.width), project(self.width, use_bias=False)
        self.gate, self.gate_on = project(1), project(1)

    def __call__(
        self,
        hidden: Float[Array, "B L D"],
        word_losses: Float[Array, "B L"],
        ids: Int[Array, "B L"],
        labels: Int[Array, "B L"],
        visible: Bool[Array, "B l L"],
        first: Bool[Array, "B L"],
        written: Bool[Array, "B L"],
    ) -> Float[Array, "B L"]:
        """-log p(label) at each place, float32.

        Args:
          word_losses: -log p_words(label).
          visible: the tokens that may be copied (l is L, or 1 where they are the same for all
            places).
          first: where a dialogue begins, whatever stands before.
          written: where the label is written and not read; elsewhere it is as if there were no
            copying.
        """
        found = self._places(hidden, self.keys(hidden, first), visible)
        right = visible & written[..., None] & (ids[:, None, :] == labels[:, :, None])

        def step(follows: Array, at: tuple) -> tuple[Array, Array]:
            places, word_losses, right = at
            copied, anew = places.copied(follows)
            copied = jnp.where(right, copied, MASKED)
            words = anew + places.words - word_losses
            log_p = jnp.logaddexp(words, jax.nn.logsumexp(copied, axis=-1))
            return _next(jnp.where(right, copied - log_p[..., None], MASKED)), log_p

        none = jnp.full_like(found.attention[:, 0], MASKED)
        at = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (found, word_losses, right))
        _, log_p = jax.lax.scan(step, none, at)
        return jnp.where(written, -jnp.moveaxis(log_p, 0, 1), word_losses)

    def keys(
        self, hidden: Float[Array, "B L D"], first: Bool[Array, "B L"]
    ) -> Float[Array, "B L K"]:
        """What tokens are found by."""
        before = jnp.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
        before = jnp.where(first[..., None], 0, before)
        return self.own(hidden.astype(jnp.float32)) + self.before(before.astype(jnp.float32))

    def begin(
        self,
        hidden: Float[Array, "B 1 D"],
        logits: Float[Array, "B 1 V"],
        tokens: ReadTokens,
        branches: int,
    ) -> Copies:
        """Of the first token that is written, on so many branches."""
        B, M = tokens.ids.shape
        begun = self.step(hidden, logits, tokens, jnp.full((B, 1, M), MASKED))
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (B, branches, x.shape[2])), begun)

    def step(
        self,
        hidden: Float[Array, "B K D"],
        logits: Float[Array, "B K V"],
        tokens: ReadTokens,
        follows: Float[Array, "B K M"],
    ) -> Copies:
        """Of the next token on each branch.

        Args:
          logits: of the words.
          follows: log f.
        """
        places = self._places(hidden, tokens.keys, tokens.visible[:, None, :])
        copied, anew = places.copied(follows)
        B, K, V = logits.shape
        rows = jnp.arange(B)[:, None]
        found = jnp.zeros((B, V, K)).at[rows, tokens.ids].add(jnp.swapaxes(jnp.exp(copied), 1, 2))
        words = (anew + places.words)[..., None] + jax.nn.log_softmax(logits)
        return Copies(copied, jnp.logaddexp(words, _log(jnp.swapaxes(found, 1, 2))))

    def _places(self, hidden: Array, keys: Array, visible: Array) -> _Places:
        hidden = hidden.astype(jnp.float32)

        def scores(query: Projection) -> Array:
            found = jnp.einsum("blk,bmk->blm", query(hidden), keys) * self.width**-0.5
            return jnp.where(visible, found, MASKED)

        gate, on = self.gate(hidden)[..., 0], scores(self.query_on) + self.gate_on(hidden)
        words, copies = jax.nn.log_sigmoid(gate), jax.nn.log_sigmoid(-gate)
        attention = jax.nn.log_softmax(scores(self.query), axis=-1)
        return _Places(words, jnp.where(visible, copies[..., None] + attention, MASKED), on)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Places:
    """Attributes, at any places:

    words: log g.
    attention: log (1 - g) a.
    on: c's logit.
    """

    words: Float[Array, "*at"]
    attention: Float[Array, "*at M"]
    on: Float[Array, "*at M"]

    def copied(
        self, follows: Float[Array, "*at M"]
    ) -> tuple[Float[Array, "*at M"], Float[Array, "*at"]]:
        """log of p(the next token is copied from there), of going on or anew, and of p(anew).

        Args:
          follows: log f.
        """
        # 1 - sum f c, and not by that difference, in which all digits may be lost.
        free = _log(jnp.maximum(1 - jnp.exp(follows).sum(axis=-1), 0))
        ended = jax.nn.logsumexp(follows + jax.nn.log_sigmoid(-self.on), axis=-1)
        anew = jnp.logaddexp(free, ended)
        went_on = follows + jax.nn.log_sigmoid(self.on)
        return jnp.logaddexp(went_on, anew[..., None] + self.attention), anew


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReadTokens:
    """The M tokens that may be copied, where they are visible; `keys`: see `CopyHead.keys`."""

    keys: Float[Array, "B M E"]
    ids: Int[Array, "B M"]
    visible: Bool[Array, "B M"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Copies:
    """What may come next on each branch.

    Attributes:
      copied: log-probability that it is copied from there.
      log_p: that of each word, copied or not.
    """

    copied: Float[Array, "B K M"]
    log_p: Float[Array, "B K V"]

    def after(self, ids: Int[Array, "B K"], tokens: ReadTokens) -> Float[Array, "B K M"]:
        """log f when each branch has written its next token."""
        log_p = jnp.take_along_axis(self.log_p, ids[..., None], axis=-1)
        right = tokens.visible[:, None, :] & (tokens.ids[:, None, :] == ids[..., None])
        return _next(jnp.where(right, self.copied - log_p, MASKED))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CopyCache:
    """The state of a decoder that copies, while it writes. `decoder`: its own."""

    decoder: Cache
    tokens: ReadTokens
    copies: Copies

    def reorder(self, parents: Int[Array, "B K"]) -> CopyCache:
        """With branch k going on from where branch `parents[:, k]` is."""
        copies = jax.tree.map(
            lambda x: jnp.take_along_axis(x, parents[:, :, None], axis=1), self.copies
        )
        return dataclasses.replace(self, decoder=self.decoder.reorder(parents), copies=copies)


def _next(x: Float[Array, "*at M"]) -> Float[Array, "*at M"]:
    """Of the place after each; of the first, that it is impossible."""
    widths = [(0, 0)] * (x.ndim - 1) + [(1, 0)]
    return jnp.pad(x[..., :-1], widths, constant_values=MASKED)


def _log(x: Array) -> Array:
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), MASKED)
