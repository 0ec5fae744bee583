"""The cross-entropy in blocks is the dense one, in the memory of a block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses.response import response_loss
from mmjax.models.vocabulary import vocabulary_cross_entropy


def case(B=3, L=10, D=8, V=50, W=64):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(B, L, D)).astype(np.float32)
    words = rng.normal(size=(W, D)).astype(np.float32)
    return hidden, words, rng.integers(0, V, (B, L)), rng.normal(size=(B, L)).astype(np.float32)


def dense(hidden, words, labels, vocab_size):
    logits = jnp.einsum("bld,vd->blv", hidden, words[:vocab_size])
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("block", [4, 10, 32])  # one that does not divide, all, more than all
def test_value_and_gradients_are_the_dense_ones(block):
    hidden, words, labels, weights = case()

    def both(loss):
        return jax.jit(jax.value_and_grad(lambda h, w: jnp.sum(loss(h, w) * weights), (0, 1)))

    ours = both(lambda h, w: vocabulary_cross_entropy(h, w, labels, 50, block))(hidden, words)
    expected = both(lambda h, w: dense(h, w, labels, 50))(hidden, words)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert not ours[1][1][50:].any()  # rows that are no words


def test_bfloat16_vectors_give_a_float32_loss_near_the_dense_one():
    hidden, words, labels, _ = case()
    hidden = hidden.astype(jnp.bfloat16)
    ours = jax.jit(lambda h: vocabulary_cross_entropy(h, words, labels, 50, 4))(hidden)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, dense(hidden, words, labels, 50), rtol=0.02, atol=0.02)


def test_no_more_logits_exist_than_those_of_a_block():
    B, L, D, V, block = 2, 256, 8, 4096, 16
    shapes = (
        jax.ShapeDtypeStruct((B, L, D), jnp.float32),
        jax.ShapeDtypeStruct((V, D), jnp.float32),
        jax.ShapeDtypeStruct((B, L), jnp.int32),
    )

    def temporary(loss):
        step = jax.grad(lambda h, w, labels: jnp.sum(loss(h, w, labels)), (0, 1))
        return jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    all_logits = 4 * B * L * V
    assert temporary(lambda h, w, y: dense(h, w, y, V)) > all_logits
    # A few arrays of a block's size: logits, and what is made of them.
    ours = temporary(lambda h, w, y: vocabulary_cross_entropy(h, w, y, V, block))
    assert ours < 5 * all_logits * block / L


def test_only_the_responses_tokens_count_or_those_read_too_and_no_dialogues_first():
    losses = np.random.default_rng(1).random((2, 10))  # of token l + 1 at place l
    losses[0, 6] = np.inf
    response = np.zeros((2, 10), int)
    response[0, 3:6] = response[0, 8] = response[1, 5:] = 1
    mask = np.ones((2, 10), bool)
    mask[1, 7:] = False
    dialogue = np.array([[0] * 4 + [1] * 6, [0] * 5 + [1] * 5])
    batch = {
        "response": {"ids": response, "mask": mask},
        "dialogue": {"ids": dialogue, "mask": mask},
        "weight": np.array([1.0, 0.5]),
    }
    total, weight = response_loss({"losses": losses}, batch)
    # Token 4 of the first row and 5 of the second are the first of a dialogue.
    learned = [(0, 3, 1.0), (0, 5, 1.0), (0, 8, 1.0), (1, 6, 0.5)]
    assert weight == sum(w for *_, w in learned)
    expected = sum(w * losses[b, at - 1] for b, at, w in learned)
    np.testing.assert_allclose(total, expected, rtol=1e-5)

    # With what is read: neither padding nor images, and no dialogue's first either.
    losses[0, 6] = 1.0
    batch["text"] = {"mask": mask}
    image_at = np.zeros((2, 10), int)
    image_at[0, 1] = 1
    batch["image_at"] = {"ids": image_at, "mask": mask}
    total, weight = response_loss({"losses": losses}, batch, read_weight=0.25)
    read = [(0, 2), (0, 6), (0, 7), (0, 9), (1, 1), (1, 2), (1, 3), (1, 4)]
    counted = [*learned, *((b, at, 0.25 * batch["weight"][b]) for b, at in read)]
    np.testing.assert_allclose(weight, sum(w for *_, w in counted), rtol=1e-6)
    expected = sum(w * losses[b, at - 1] for b, at, w in counted)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
