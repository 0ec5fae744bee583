"""What decoding promises of any model: here one whose next word depends on the last one alone."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decoding.allowed import keep_top_k, keep_top_p, repeating
from mmjax.decoding.generate import generate
from mmjax.decoding.generator import Generator
from mmjax.decoding.options import DecodingOptions
from mmjax.decoding.top import top_k
from mmjax.decoding.word_by_word import _choose
from mmjax.errors import UserError

V, EOS, PAD = 7, 6, 0
TABLE = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32) * 2
FIRST = np.array([1, 4, 5], np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Counts what each branch has been told, so that a wrong order is seen."""

    told: jax.Array  # [B, K], sum of (1 + word) * 10^step

    def reorder(self, parents):
        return State(jnp.take_along_axis(self.told, parents, axis=1))


def chain(first=FIRST, table=TABLE) -> Generator:
    prompt = jnp.asarray(first)[:, None]

    def begin(branches, steps):
        state = State(jnp.zeros((len(first), branches), jnp.int32))
        return jnp.asarray(table)[prompt[:, 0]], state

    def step(state, ids):
        return jnp.asarray(table)[ids], State(10 * state.told + 1 + ids)

    return Generator(begin, step, prompt, jnp.ones(prompt.shape, bool))


@functools.partial(jax.jit, static_argnums=0)
def written(options: DecodingOptions, key=None, allowed=None):
    return generate(chain(), options, eos_id=EOS, pad_id=PAD, allowed=allowed, key=key)


def log_p(first: int, words, table=TABLE) -> float:
    logs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    return float(sum(logs[a, b] for a, b in itertools.pairwise([first, *words])))


def every_answer(T: int):
    for n in range(1, T + 1):
        for words in itertools.product(range(V), repeat=n):
            if EOS not in words[:-1] and (n == T or words[-1] == EOS):
                yield words


@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.6])
def test_a_search_wide_enough_finds_the_best_of_all_answers(penalty):
    beams = 50  # of at most 7 * 6 open ones after two words
    options = DecodingOptions(
        max_new_tokens=3, beams=beams, answers=4, length_penalty=penalty, early_stopping="never"
    )
    found = written(options)
    for row, first in enumerate(FIRST):
        scores = {w: log_p(first, w) / len(w) ** penalty for w in every_answer(3)}
        best = sorted(scores, key=scores.get, reverse=True)[:4]
        for n, words in enumerate(best):
            assert tuple(found.ids[row, n][: found.lengths[row, n]]) == words
            assert found.scores[row, n] == pytest.approx(scores[words], abs=1e-4)


def test_each_row_ends_at_its_own_end_token_and_is_padded_after_it():
    found = jax.device_get(written(DecodingOptions(max_new_tokens=6, sample=True, answers=20),
                                   key=jax.random.key(0)))  # fmt: skip
    assert len(np.unique(found.lengths)) > 3
    for row, first in enumerate(FIRST):
        for ids, length, score in zip(
            found.ids[row], found.lengths[row], found.scores[row], strict=True
        ):
            words = ids[:length]
            assert EOS not in words[:-1] and (words[-1] == EOS or length == 6)
            assert (ids[length:] == PAD).all()
            assert score == pytest.approx(log_p(first, words), abs=1e-4)


def test_samples_follow_their_key_and_differ_from_each_other():
    options = DecodingOptions(max_new_tokens=6, sample=True, answers=20)
    one, again = (written(options, key=jax.random.key(0)).ids for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = written(options, key=jax.random.key(1)).ids
    assert (one != other).any()
    assert all(len(np.unique(row, axis=0)) > 5 for row in one)


def test_words_are_drawn_from_the_distribution_that_the_options_leave():
    """The very numbers that are drawn from, computed in numpy."""
    logits = np.random.default_rng(1).normal(size=(2, 3, 40)).astype(np.float32) * 3
    options = DecodingOptions(sample=True, temperature=0.7, top_k=12, top_p=0.8)
    scaled = logits / np.float32(0.7)
    ordered = np.sort(scaled, axis=-1)
    left = np.where(scaled < ordered[..., -12, None], -np.inf, scaled)
    left = np.where(nucleus(left, 0.8), left, -np.inf)
    keys = jax.random.split(jax.random.key(3), len(logits))
    expected = jax.vmap(jax.random.categorical)(keys, left)
    np.testing.assert_array_equal(_choose(jnp.asarray(logits), options, keys), expected)


def nucleus(logits: np.ndarray, p: float) -> np.ndarray:
    """True at the fewest best words whose probabilities add up to p."""
    values = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    values /= values.sum(axis=-1, keepdims=True)
    keep = np.zeros(logits.shape, bool)
    for row in np.ndindex(logits.shape[:-1]):
        total = 0.0
        for word in np.argsort(-values[row], kind="stable"):
            if total >= p:
                break
            keep[(*row, word)] = True
            total += values[row][word]
    return keep


def test_top_p_keeps_the_fewest_words_that_have_the_probability():
    logits = np.random.default_rng(2).normal(size=(20, 300)).astype(np.float32) * 3
    logits[0, :7] = 9.0  # equal ones: all stay or none
    for p in (0.05, 0.5, 0.93, 1.0):
        kept = np.asarray(jnp.isfinite(keep_top_p(jnp.asarray(logits), p)))
        expected = nucleus(logits, p)
        np.testing.assert_array_equal(kept[1:], expected[1:] if p < 1 else kept[1:])
        assert kept.any(axis=1).all()
    assert np.isfinite(keep_top_p(jnp.asarray(logits), 1.0)).mean() > 0.99
    assert np.isfinite(keep_top_p(jnp.asarray(logits[:1]), 0.3)).sum() == 7


def test_top_k_keeps_the_k_best_words_and_no_fewer_where_some_are_equal():
    logits = np.random.default_rng(3).permuted(np.tile(np.arange(60.0), (5, 1)), axis=1)
    for k in (1, 7, 60, 99):
        kept = np.asarray(jnp.isfinite(keep_top_k(jnp.asarray(logits), k)))
        np.testing.assert_array_equal(kept, logits >= 60 - k)
    assert np.isfinite(keep_top_k(jnp.zeros((1, 60)), 3)).all()


def test_the_best_of_a_large_vocabulary_are_those_of_lax_top_k():
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 40, (2, 3, 3001)).astype(np.float32)  # full of equal ones
    scores[0, 0] = -np.inf
    scores[1, 2, 5:] = -np.inf
    for found, expected in zip(top_k(scores, 8), jax.lax.top_k(scores, 8), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_would_repeat_an_ngram_of_prompt_and_answer_is_found(size):
    rng = np.random.default_rng(5)
    prompt, tokens = rng.integers(0, 3, (4, 5)), rng.integers(0, 3, (4, 2, 6))
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]], bool)
    for count in (0, 1, 4):
        found = repeating(*map(jnp.asarray, (prompt, mask, tokens)), count, size, (4, 2, 3))
        for row, branch in np.ndindex(4, 2):
            text = [*prompt[row][mask[row]], *tokens[row, branch, :count]]
            grams = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
            start = text[len(text) - size + 1 :]
            banned = [len(start) == size - 1 and (*start, w) in grams for w in range(3)]
            assert found[row, branch].tolist() == banned, (row, branch, count)


def test_nothing_but_what_is_allowed_is_written_and_the_end_where_nothing_is():
    allowed = np.zeros((3, V), bool)
    allowed[:, [2, 3]] = True
    allowed[1, EOS] = True
    options = DecodingOptions(max_new_tokens=6)
    ids = jax.device_get(written(options, allowed=allowed).ids)[:, 0]
    assert set(ids[[0, 2]].flat) <= {2, 3}
    assert set(ids[1]) <= {2, 3, EOS, PAD}
    once = dataclasses.replace(options, no_repeat_ngram=1)
    for row in jax.device_get(written(once, allowed=allowed).ids)[[0, 2], 0]:
        assert sorted(row[:2]) == [2, 3] and row[2] == EOS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beams": 0}, "beams=0 must be at least 1"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "min_new_tokens=5 is more"),
        ({"early_stopping": "always"}, "early_stopping"),
        ({"sample": True, "temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"sample": True, "top_p": 1.5}, "top_p=1.5"),
        ({"sample": True, "top_k": 0}, "top_k=0"),
        ({"sample": True, "beams": 2}, "a search draws nothing"),
        ({"top_k": 5}, "top_k needs sample=True"),
        ({"answers": 3, "beams": 2}, "answers=3 of beams=2"),
        ({"length_penalty": float("nan")}, "length_penalty"),
    ],
)
def test_options_that_mean_nothing_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        DecodingOptions(**values)


def test_sampling_without_a_key_is_refused():
    with pytest.raises(ValueError, match="needs a key"):
        written(DecodingOptions(sample=True))
