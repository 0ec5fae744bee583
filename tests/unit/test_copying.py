"""A decoder that copies: the formula, word by word as at once, and nothing across dialogues."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest
from flax import linen as nn

from mmjax.models.copying import CopyHead
from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.presets import gpt2

TEXT = gpt2(layers=1, width=16, heads=2, vocab_size=30, max_positions=24, dropout=0.0)
MODELS = {
    prefix: Decoder(DecoderConfig(TEXT, copies=True, prefix_lm=prefix)) for prefix in (False, True)
}
# What is read and what is written; of the written words some were read, some twice, some not.
DIALOGUES = (([1, 7, 8, 7, 9, 2], [7, 9, 11, 3]), ([1, 20, 21, 2], [21, 21, 3]))


def row(*dialogues, length=12, left=False):
    """A batch of one row that packs them."""
    text, response, number = [], [], []
    for k, (read, written) in enumerate(dialogues):
        text += [*read, *written]
        response += [*[0] * len(read), *[1] * len(written)]
        number += [k] * (len(read) + len(written))
    space = length - len(text)
    wide = (space, 0) if left else (0, space)
    mask = np.pad(np.ones(len(text), bool), wide)[None]
    made = {"text": text, "response": response, "dialogue": number}
    if len(dialogues) == 1:
        del made["dialogue"]
    return {
        name: {"ids": np.pad(values, wide).astype(np.int32)[None], "mask": mask}
        for name, values in made.items()
    }


@functools.cache
def variables():
    init = functools.partial(MODELS[False].init, train=False)
    made = nn.unbox(jax.jit(init)(jax.random.key(0), row(DIALOGUES[0])))
    return jax.tree.map(lambda x: 4 * x, made)


def losses(batch, prefix=False):
    return call(prefix, train=False)(variables(), batch)["losses"][0]


@functools.cache
def call(prefix, **given):
    return jax.jit(functools.partial(MODELS[prefix].apply, **given))


def test_the_loss_is_that_of_words_and_copies_together():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(1, 6, 8)).astype(np.float32)
    ids, labels = np.array([[4, 5, 4, 6, 7, 8]]), np.array([[5, 4, 4, 9, 6, 0]])
    logits = rng.normal(size=(1, 6, 10)).astype(np.float32)
    read = np.array([[True, True, True, False, True, False]])
    first = np.array([[True, False, False, True, False, False]])
    head = CopyHead(8)
    word_losses = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), labels[..., None], axis=-1
    )[..., 0]
    given = (hidden, word_losses, ids, labels, read[:, None, :], first)
    made = nn.unbox(jax.jit(head.init)(jax.random.key(1), *given))

    @jax.jit
    def compute(made):
        keys = head.apply(made, hidden, first, method="keys")
        log_p = head.apply(made, hidden, logits, keys, ids, read, method="log_p")
        return head.apply(made, *given)[0], log_p

    found, log_p = compute(made)

    p = jax.tree.map(lambda x: np.asarray(x, np.float64), made)["params"]
    x = hidden[0].astype(np.float64)
    before = np.where(first[0][:, None], 0, np.roll(x, 1, axis=0))
    keys = x @ p["own"]["kernel"] + p["own"]["bias"] + before @ p["before"]["kernel"]
    scores = (x @ p["query"]["kernel"] + p["query"]["bias"]) @ keys.T / np.sqrt(8)
    attention = np.exp(scores) * read
    attention /= attention.sum(axis=1, keepdims=True)
    gate = 1 / (1 + np.exp(-(x @ p["gate"]["kernel"] + p["gate"]["bias"])[:, 0]))
    words = np.exp(logits[0].astype(np.float64))
    words /= words.sum(axis=1, keepdims=True)
    want = np.zeros((6, 10))
    for place in range(6):
        want[place] = gate[place] * words[place]
        for j in range(6):
            want[place, ids[0, j]] += (1 - gate[place]) * attention[place, j]
    np.testing.assert_allclose(want.sum(axis=1), 1)
    np.testing.assert_allclose(found, -np.log(want[np.arange(6), labels[0]]), rtol=1e-4)

    np.testing.assert_allclose(np.exp(log_p[0]), want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_word_by_word_gives_the_probabilities_of_the_whole_row(left, prefix):
    read, written = DIALOGUES[0]
    want = losses(row(DIALOGUES[0]), prefix)[len(read) - 1 :]
    prompt = row((read, []), left=left)

    log_p, cache = call(prefix, branches=2, steps=4, method="begin")(variables(), prompt)
    found = [log_p[0, written[0]]]
    for before, word in itertools.pairwise(written):
        cache = cache.reorder(np.array([[1, 0]]))
        log_p, cache = call(prefix, method="step")(variables(), cache, np.full((1, 2), before))
        found.append(log_p[0, 1, word])
    np.testing.assert_allclose(found, -want[: len(written)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("prefix", [False, True])
def test_a_packed_dialogue_copies_from_itself_alone(prefix):
    packed = losses(row(*DIALOGUES, length=18), prefix)
    first = sum(map(len, DIALOGUES[0]))
    other = ([1, 22, 23, 22, 24, 2], [5, 6, 11, 3])
    changed = losses(row(other, DIALOGUES[1], length=18), prefix)
    np.testing.assert_array_equal(packed[first:16], changed[first:16])
    alone = losses(row(DIALOGUES[1]), prefix)
    np.testing.assert_allclose(alone[:6], packed[first : first + 6], rtol=1e-4)


@pytest.mark.parametrize("prefix", [False, True])
def test_of_what_is_read_a_prefix_lm_sees_all_and_of_what_is_written_nothing_later(prefix):
    read, places = DIALOGUES[0][0], np.arange(10)
    hidden = call(prefix, method="hidden")

    def sees(changed):
        """The places that change with the token at one place."""
        batch = row(DIALOGUES[0])
        before = hidden(variables(), batch)[0, :10]
        batch["text"]["ids"][0, changed] += 1
        after = hidden(variables(), batch)[0, :10]
        return ~np.isclose(before, after, rtol=0, atol=1e-7).all(axis=-1)

    for place in range(10):
        seen = places >= 0 if prefix and place < len(read) else places >= place
        np.testing.assert_array_equal(sees(place), seen)
