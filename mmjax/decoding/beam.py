"""Beam search: of all ways to go on from the open answers, the best stay open."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.decoding.allowed import Constraint
from mmjax.decoding.generator import Answers, Generator
from mmjax.decoding.options import DecodingOptions
from mmjax.decoding.top import top_k

# Below every score, and finite, so that what counts as worse than it still has an order.
WORST = -1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """Attributes:
    count: words written.
    ids, scores: of the open answers, the best first; scores are log-probabilities.
    done_ids, done_scores, done: the best finished answers so far, where `done`; scores are divided
      by length^length_penalty.
    hopeful: whether an open answer may still become better than those.
    """

    count: Int[Array, ""]
    ids: Int[Array, "B K T"]
    scores: Float[Array, "B K"]
    done_ids: Int[Array, "B K T"]
    done_scores: Float[Array, "B K"]
    done: Bool[Array, "B K"]
    hopeful: Bool[Array, " B"]


def beam_search(
    model: Generator, options: DecodingOptions, constrain: Constraint, eos_id: int, pad_id: int
) -> Answers:
    """The best `options.answers` that a search with `options.beams` finds.

    The rules are those of `transformers`, rows being independent of each other.
    """
    K, T = options.beams, options.max_new_tokens
    first, state = model.begin(K, T - 1)
    B, V = first.shape
    ids, scores = jnp.full((B, K, T), pad_id, jnp.int32), jnp.full((B, K), WORST)
    beams = Beams(
        count=jnp.int32(0),
        ids=ids,
        # All beams are the same at first, and only one of them counts.
        scores=scores.at[:, 0].set(0.0),
        done_ids=ids,
        done_scores=scores,
        done=jnp.zeros((B, K), bool),
        hopeful=jnp.ones(B, bool),
    )

    def step(carry: Any) -> Any:
        state, beams = carry
        last = jax.lax.dynamic_index_in_dim(beams.ids, beams.count - 1, axis=2, keepdims=False)
        logits, state = model.step(state, last)
        beams, parents = _advance(beams, logits, options, constrain, eos_id)
        return state.reorder(parents), beams

    def unfinished(carry: Any) -> Array:
        beams = carry[1]
        open_ = beams.hopeful
        if options.early_stopping is True:
            open_ = open_ & ~beams.done.all(axis=1)
        return (beams.count < T) & open_.any()

    logits = jnp.broadcast_to(first[:, None], (B, K, V))
    beams, _ = _advance(beams, logits, options, constrain, eos_id)
    beams = jax.lax.while_loop(unfinished, step, (state, beams))[1]
    N = options.answers
    ids = beams.done_ids[:, :N]
    ends = ids == eos_id
    lengths = jnp.where(ends.any(axis=-1), jnp.argmax(ends, axis=-1) + 1, T)
    return Answers(ids, lengths.astype(jnp.int32), beams.done_scores[:, :N])


def _advance(
    beams: Beams,
    logits: Float[Array, "B K V"],
    options: DecodingOptions,
    constrain: Constraint,
    eos_id: int,
) -> tuple[Beams, Int[Array, "B K"]]:
    """The beams with one more word, and which beam each open one goes on from."""
    B, K, V = logits.shape
    log_p = constrain(jax.nn.log_softmax(logits.astype(jnp.float32)), beams.ids, beams.count)
    totals = (log_p + beams.scores[:, :, None]).reshape(B, K * V)
    # Twice as many as beams: should the best K all end, K are left to go on.
    scores, index = top_k(totals, 2 * K)  # [B, 2 K]
    parents, words = index // V, index % V
    ids = jnp.take_along_axis(beams.ids, parents[..., None], axis=1)
    ids = jax.lax.dynamic_update_slice(ids, words[..., None].astype(ids.dtype), (0, 0, beams.count))
    count = beams.count + 1
    ended = (words == eos_id) | (count == options.max_new_tokens)

    open_scores, chosen = jax.lax.top_k(scores + ended * WORST, K)
    open_ids, parents = _chosen(ids, chosen), _chosen(parents, chosen)
    done_ids, done_scores, done = _finished(beams, ids, scores, ended, count, options)

    # How good the best open answer can still become.
    length = count
    if options.early_stopping == "never" and options.length_penalty > 0:
        length = options.max_new_tokens
    reachable = open_scores[:, :1] / _penalty(length, options)
    worst = jnp.where(done, done_scores.min(axis=1, keepdims=True), WORST)
    hopeful = beams.hopeful & (reachable > worst).any(axis=1)
    return Beams(count, open_ids, open_scores, done_ids, done_scores, done, hopeful), parents


def _finished(
    beams: Beams, ids: Array, scores: Array, ended: Array, count: Array, options: DecodingOptions
) -> tuple[Array, Array, Array]:
    """The best finished answers, with those among the K best that have just ended."""
    K = beams.scores.shape[1]
    enter = ended & (jnp.arange(2 * K) < K)
    closed = ~beams.hopeful
    if options.early_stopping is True:
        closed = closed | beams.done.all(axis=1)
    scores = scores / _penalty(count, options)
    scores = scores + closed[:, None] * WORST + ~enter * WORST
    scores = jnp.concatenate([beams.done_scores, scores], axis=1)
    scores, chosen = jax.lax.top_k(scores, K)
    ids = _chosen(jnp.concatenate([beams.done_ids, ids], axis=1), chosen)
    done = _chosen(jnp.concatenate([beams.done, enter], axis=1), chosen)
    return ids, scores, done


def _penalty(length: Any, options: DecodingOptions) -> Array:
    return jnp.asarray(length, jnp.float32) ** options.length_penalty


def _chosen(x: Array, index: Int[Array, "B k"]) -> Array:
    """The rows `index` of each x[b]."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)
