"""Which words may come next: constraints on scores, and what is cut off before words are drawn."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.decoding.options import DecodingOptions
from mmjax.decoding.top import top_k

# (scores [B, K, V], tokens so far [B, K, T], how many they are) -> scores, -inf where forbidden
Constraint = Callable[[Array, Array, Array], Array]


def constraint(
    options: DecodingOptions,
    eos_id: int,
    prompt: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    allowed: Bool[Array, "*B V"] | None = None,
) -> Constraint:
    """What the options and `allowed` (words of all rows, or [B, V] of each) forbid.

    Where nothing is left, the end token is.
    """

    def constrain(scores: Array, tokens: Array, count: Array) -> Array:
        given = scores
        if allowed is not None:
            wide = allowed if allowed.ndim == 1 else allowed[:, None]
            scores = jnp.where(wide, scores, -jnp.inf)
        if options.no_repeat_ngram:
            banned = repeating(prompt, mask, tokens, count, options.no_repeat_ngram, scores.shape)
            scores = jnp.where(banned, -jnp.inf, scores)
        is_end = jnp.arange(scores.shape[-1]) == eos_id
        if options.min_new_tokens:
            scores = jnp.where(is_end & (count < options.min_new_tokens), -jnp.inf, scores)
        if allowed is not None or options.no_repeat_ngram:
            nothing = (scores == -jnp.inf).all(axis=-1, keepdims=True)
            scores = jnp.where(nothing & is_end, given, scores)
        return scores

    return constrain


def repeating(
    prompt: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    tokens: Int[Array, "B K T"],
    count: Int[Array, ""],
    size: int,
    shape: tuple[int, int, int],
) -> Bool[Array, "B K V"]:
    """Words that would end an n-gram of `size` which prompt and answer already hold.

    Args:
      count: how many of the T tokens there are; `shape`: (B, K, V).
    """
    branches, V = shape[1:]
    # Padding first, wherever it was, so that prompt and answer meet.
    order = jnp.argsort(mask, axis=1, stable=True)
    prompt = jnp.take_along_axis(prompt, order, axis=1)
    real = mask.sum(axis=1)[:, None, None]
    before = jnp.broadcast_to(prompt[:, None], (len(prompt), branches, prompt.shape[1]))
    text = jnp.concatenate([before, tokens], axis=-1)  # [B, K, L + T]
    end = prompt.shape[1] + count  # where the next word comes
    windows = text.shape[-1] - size + 1
    if windows < 1:
        return jnp.zeros(shape, bool)
    starts = jnp.arange(windows)
    found = (starts >= prompt.shape[1] - real) & (starts + size <= end)  # [B, 1, W]
    found &= count + real >= size - 1
    for i in range(size - 1):
        last = jax.lax.dynamic_slice_in_dim(text, end - (size - 1) + i, 1, axis=-1)
        found &= text[..., i : i + windows] == last
    word = jnp.where(found, text[..., size - 1 :], V)  # beyond the words where none is found
    rows, columns = jnp.arange(shape[0])[:, None, None], jnp.arange(branches)[:, None]
    return jnp.zeros(shape, bool).at[rows, columns, word].set(True, mode="drop")


def keep_top_k(logits: Float[Array, "*n V"], k: int) -> Float[Array, "*n V"]:
    """-inf at all words that are worse than the k-th best."""
    if k >= logits.shape[-1]:
        return logits
    least = top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*n V"], p: float) -> Float[Array, "*n V"]:
    """-inf at all words but the best that together have a probability of at least p.

    Words as likely as the last of these stay too.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    # The largest threshold whose words suffice. Positive floats are ordered as their bits are,
    # so that 31 halvings find it exactly; sorting all words takes several times as long.
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # low suffices, high does not
        middle = low + (high - low) // 2
        mass = jnp.sum(jnp.where(bits >= middle[..., None], probabilities, 0), axis=-1)
        enough = mass >= p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low = jnp.zeros(logits.shape[:-1], jnp.int32)
    high = jnp.max(bits, axis=-1) + 1
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    # The best word stays also where rounding makes it too little.
    least = jnp.minimum(low, high - 1)[..., None]
    return jnp.where(bits < least, -jnp.inf, logits)
