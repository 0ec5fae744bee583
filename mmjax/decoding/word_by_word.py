"""Greedy decoding and sampling: every word is chosen for good."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mmjax.decoding.allowed import Constraint, keep_top_k, keep_top_p
from mmjax.decoding.generator import Answers, Generator
from mmjax.decoding.options import DecodingOptions


def word_by_word(
    model: Generator,
    options: DecodingOptions,
    constrain: Constraint,
    eos_id: int,
    pad_id: int,
    key: Key[Array, "*B"] | None,
) -> Answers:
    """`options.answers` of each prompt, drawn or (that one) the best word by word."""
    T, branches = options.max_new_tokens, options.answers
    if len(model.prompt) * branches == 1:
        # On a CPU, products with a single row run in one thread, and the cache is copied around
        # them at every step; with a second row neither is so.
        branches = 2
    first, state = model.begin(branches, T - 1)
    B, V = first.shape
    keys = key if key is None or key.ndim else jax.random.split(key, B)

    def write(logits: Array, carry: Any) -> Any:
        count, ids, lengths, scores, done = carry
        logits = logits.astype(jnp.float32)
        words = _choose(constrain(logits, ids, count), options, _folded(keys, count))
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), words[..., None], axis=-1)[..., 0]
        words = jnp.where(done, pad_id, words)
        ids = jax.lax.dynamic_update_slice(ids, words[..., None], (0, 0, count))
        scores = scores + jnp.where(done, 0.0, log_p)
        lengths = lengths + ~done
        return count + 1, ids, lengths, scores, done | (words == eos_id)

    def step(carry: Any) -> Any:
        state, written = carry
        count, ids = written[:2]
        last = jax.lax.dynamic_index_in_dim(ids, count - 1, axis=2, keepdims=False)
        logits, state = model.step(state, last)
        return state, write(logits, written)

    def unfinished(carry: Any) -> Array:
        count, done = carry[1][0], carry[1][-1]
        return (count < T) & ~done.all()

    nothing = (
        jnp.int32(0),
        jnp.full((B, branches, T), pad_id, jnp.int32),
        jnp.zeros((B, branches), jnp.int32),
        jnp.zeros((B, branches), jnp.float32),
        jnp.zeros((B, branches), bool),
    )
    written = write(jnp.broadcast_to(first[:, None], (B, branches, V)), nothing)
    _, (_, ids, lengths, scores, _) = jax.lax.while_loop(unfinished, step, (state, written))
    N = options.answers
    return Answers(ids[:, :N], lengths[:, :N], scores[:, :N])


def _choose(
    logits: Float[Array, "B K V"], options: DecodingOptions, keys: Key[Array, " B"] | None
) -> Int[Array, "B K"]:
    if not options.sample:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / options.temperature
    if options.top_k is not None:
        logits = keep_top_k(logits, options.top_k)
    if options.top_p is not None:
        logits = keep_top_p(logits, options.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _folded(keys: Key[Array, " B"] | None, count: Array) -> Key[Array, " B"] | None:
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, count)
