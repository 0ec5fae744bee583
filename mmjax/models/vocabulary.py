"""Cross-entropy over a vocabulary, without the logits of all places at one time."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.parallel.rules import axis_size, constrain

NOT_A_WORD = -1e30


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def vocabulary_cross_entropy(
    hidden: Float[Array, "B L D"],
    words: Float[Array, "W D"],
    labels: Int[Array, "B L"],
    vocab_size: int,
    block: int,
) -> Float[Array, "B L"]:
    """-log p(label) at each place, float32, p the softmax of the vectors' products with words.

    Blocks of `block` places of all rows are computed one after another, and again in the backward
    pass: at most B x block x W logits exist.

    Args:
      words: rows from `vocab_size` on are padding, and no words.
    """
    return _forward(hidden, words, labels, vocab_size, block)[0]


def _forward(
    hidden: Array, words: Array, labels: Array, vocab_size: int, block: int
) -> tuple[Array, tuple[Array, ...]]:
    table = _whole_rows(words.astype(hidden.dtype))

    def one(_: None, part: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        hidden, labels = part  # [S, b, c, D], [S, b, c]
        logits = _logits(hidden, table, vocab_size)
        highest = jnp.max(logits, axis=-1)
        total = highest + jnp.log(jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1))
        # From the label's own row: looked up in logits that are cut over devices, it would bring
        # them all together.
        own = jnp.take(table, labels, axis=0).astype(jnp.float32)
        own = jnp.sum(hidden.astype(jnp.float32) * own, axis=-1)
        return None, (total - own, total)

    parts = _cut(hidden, block), _cut(labels, block)
    losses, totals = (_joined(x, labels.shape) for x in jax.lax.scan(one, None, parts)[1])
    return losses, (hidden, words, labels, totals)


def _backward(
    vocab_size: int, block: int, saved: tuple[Array, ...], dlosses: Array
) -> tuple[Array | None, ...]:
    hidden, words, labels, totals = saved
    table = _whole_rows(words.astype(hidden.dtype))
    parts = tuple(_cut(x, block) for x in (hidden, labels, totals, dlosses))

    def one(dwords: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        hidden, labels, totals, dlosses = part
        logits = _logits(hidden, table, vocab_size)
        is_label = jnp.arange(logits.shape[-1]) == labels[..., None]
        dlogits = (jnp.exp(logits - totals[..., None]) - is_label) * dlosses[..., None]
        dlogits = dlogits.astype(hidden.dtype)
        dhidden = jnp.einsum("sbcw,wd->sbcd", dlogits, table)
        dwords += jnp.einsum("sbcw,sbcd->swd", dlogits, hidden, preferred_element_type=jnp.float32)
        return constrain(dwords, "batch", "act_vocab", None), dhidden

    # A sum for each group of devices that has rows of its own: one sum over all of them would go
    # between the devices for every block.
    zeros = jnp.zeros((parts[0].shape[1], *words.shape), jnp.float32)
    dwords, dhidden = jax.lax.scan(one, constrain(zeros, "batch", "act_vocab", None), parts)
    return _joined(dhidden, hidden.shape), dwords.sum(axis=0).astype(words.dtype), None


vocabulary_cross_entropy.defvjp(_forward, _backward)


def _logits(
    hidden: Float[Array, "S b c D"], table: Float[Array, "W D"], vocab_size: int
) -> Float[Array, "S b c W"]:
    logits = jnp.einsum("sbcd,wd->sbcw", hidden, table, preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", None, None, "act_vocab")
    return jnp.where(jnp.arange(len(table)) < vocab_size, logits, NOT_A_WORD)


def _whole_rows(table: Float[Array, "W D"]) -> Float[Array, "W D"]:
    return constrain(table, "vocab", None)


def _cut(x: Array, block: int) -> Array:
    """[B, L, ...] -> [blocks, S, B / S, block, ...], S the groups of devices that share B."""
    B, L, *rest = x.shape
    blocks = math.ceil(L / block)
    x = jnp.pad(x, [(0, 0), (0, blocks * block - L), *[(0, 0)] * len(rest)])
    mesh = jax.sharding.get_abstract_mesh()
    S = 1 if mesh.empty else axis_size(mesh, "batch")
    S = S if B % S == 0 else 1
    x = x.reshape(S, B // S, blocks, block, *rest)
    return jnp.moveaxis(x, 2, 0)


def _joined(x: Array, shape: tuple[int, ...]) -> Array:
    """What `_cut` has cut."""
    x = jnp.moveaxis(x, 0, 2)  # [S, B / S, blocks, block, ...]
    x = x.reshape(shape[0], -1, *shape[2:])
    return x[:, : shape[1]]
