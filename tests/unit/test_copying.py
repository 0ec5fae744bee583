"""A decoder that copies: the formula, word by word as at once, and nothing across dialogues."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.models.attention import MASKED
from mmjax.models.copying import CopyHead, ReadTokens, _Places
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


def test_every_way_to_copy_the_words_counts_as_likely_as_it_is():
    """Against the sum over all of them: of each word, that it is new, or copied from some place."""
    rng = np.random.default_rng(0)
    # Two are read twice, and 5 2 4 in two ways; what is written follows at places 5 to 9.
    ids = np.array([[4, 5, 4, 5, 2, 5, 4, 5, 2, 9]])
    hidden = rng.normal(size=(1, 10, 8)).astype(np.float32)
    logits = 2 * rng.normal(size=(1, 10, 10)).astype(np.float32)
    read = np.array([[True, True, False, True, True, *[False] * 5]])
    first = np.array([[False, True, *[False] * 8]])
    labels = np.append(ids[:, 1:], [[0]], axis=1)
    written = np.array([[*[False] * 4, *[True] * 5, False]])
    word_p = np.asarray(jax.nn.softmax(logits), np.float64)
    word_losses = -np.log(np.take_along_axis(word_p, labels[..., None], axis=-1)[..., 0])
    head = CopyHead(8)
    given = (hidden, word_losses.astype(np.float32), ids, labels, read[:, None, :], first, written)
    made = nn.unbox(jax.jit(head.init)(jax.random.key(1), *given))

    @jax.jit
    def whole(made):
        return head.apply(made, *given)[0]

    @jax.jit
    def word_by_word(made):
        tokens = ReadTokens(head.apply(made, hidden, first, method="keys"), ids, read)
        at = hidden[:, 4:5], logits[:, 4:5]
        copies, found = head.apply(made, *at, tokens, 1, method="begin"), []
        for place in range(5, 9):
            found.append(copies.log_p[0, 0])
            follows = copies.after(ids[:, place : place + 1], tokens)
            at = hidden[:, place : place + 1], logits[:, place : place + 1]
            copies = head.apply(made, *at, tokens, follows, method="step")
        return jnp.stack([*found, copies.log_p[0, 0]])

    likely = _chain(made["params"], hidden[0], word_p[0], ids[0], read[0], first[0])
    want = np.zeros((5, 10))
    for count in range(5):
        before = likely(ids[0, 5 : 5 + count])
        for word in range(10):
            want[count, word] = likely([*ids[0, 5 : 5 + count], word]) / before
    np.testing.assert_allclose(want.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(word_by_word(made)), want, rtol=1e-4, atol=1e-7)
    found = whole(made)
    np.testing.assert_allclose(
        found[4:9], -np.log(want[np.arange(5), labels[0, 4:9]]), rtol=1e-4, atol=1e-6
    )
    # What is only read is not copied, and its loss that of words.
    np.testing.assert_allclose(found[:4], word_losses[0, :4], rtol=1e-6)


def _chain(p, hidden, word_p, ids, read, first):
    """(words written from place 5 on) -> their probability, float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
    x = hidden.astype(np.float64)

    def linear(name):
        return x @ p[name]["kernel"] + p[name]["bias"]

    before = np.where(first[:, None], 0, np.roll(x, 1, axis=0))
    before[0] = 0
    keys = linear("own") + before @ p["before"]["kernel"]
    attention = np.exp(linear("query") @ keys.T / np.sqrt(8)) * read
    attention /= attention.sum(axis=1, keepdims=True)
    g = 1 / (1 + np.exp(-linear("gate")[:, 0]))
    c = 1 / (1 + np.exp(-(linear("query_on") @ keys.T / np.sqrt(8) + linear("gate_on")))) * read

    def likely(words):
        total, places = 0.0, np.flatnonzero(read)
        for path in itertools.product([None, *places], repeat=len(words)):
            p, was = 1.0, None
            for at, (word, place) in enumerate(zip(words, path, strict=True), 4):
                on = c[at, was + 1] if was is not None else 0.0
                if place is None:
                    p *= (1 - on) * g[at] * word_p[at, word]
                else:
                    anew = (1 - on) * (1 - g[at]) * attention[at, place]
                    p *= (anew + on * (was is not None and place == was + 1)) * (ids[place] == word)
                was = place
            total += p
        return total

    return likely


def test_what_ends_a_copy_that_is_certain_to_go_on_costs_what_it_should():
    """A loss near the logit, where the probability itself is too small for float32."""
    places = _Places(
        words=jnp.full((1,), -0.5),
        attention=jnp.full((1, 3), MASKED),
        on=jnp.full((1, 3), 95.0),
    )
    follows = jnp.array([[MASKED, 0.0, MASKED]])  # the token before is the first one, for certain

    def cost(on):
        return -dataclasses.replace(places, on=on).copied(follows)[1].sum()

    found, gradient = jax.value_and_grad(cost)(places.on)
    np.testing.assert_allclose(found, 95, rtol=1e-5)
    np.testing.assert_allclose(gradient, [[0, 1, 0]], atol=1e-5)


def test_losses_and_gradients_are_finite_where_nothing_can_be_copied_or_all_is_certain():
    head = CopyHead(4)
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(2, 6, 4)).astype(np.float32)
    ids = np.array([[4, 5, 4, 5, 4, 5]] * 2)
    labels, first = np.roll(ids, -1, axis=1), np.zeros((2, 6), bool)
    read = np.array([[True, True, *[False] * 4], [False] * 6])
    written = np.array([[False, *[True] * 4, False]] * 2)
    words = np.array([[1.0, 200.0, 1e30, np.inf, 3.0, 0.0]] * 2, np.float32)
    words[1] = 3.0
    given = (hidden, words, ids, labels, read[:, None, :], first, written)
    made = nn.unbox(head.init(jax.random.key(0), *given))

    @jax.jit
    def learn(made):
        def total(made):
            return jnp.where(written, head.apply(made, *given), 0).sum()

        return jax.value_and_grad(total)(made)

    for scale in (1.0, 1e3, -1e3, 1e6):
        loss, gradient = learn(jax.tree.map(lambda x, scale=scale: scale * x, made))
        assert np.isfinite(loss)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


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
