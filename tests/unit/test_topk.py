"""The top k and the ranks are those of a full sort in float64, without the matrix of scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.metrics.retrieval import rank_counts_from_scores
from mmjax.parallel.topk import rank_counts, top_k

# Few shapes, so that few programs are compiled. One candidate; a group of 64 and beside it; blocks
# of 64 and of 128 that divide the pool or not.
SIZES = st.sampled_from(
    [
        # Q, P, D, k, block
        (1, 1, 1, 1, (4, 64)),
        (1, 256, 1, 7, (4, 64)),
        (5, 65, 3, 70, (2, 64)),
        (9, 300, 4, 5, (4, 128)),
        (3, 130, 2, 130, (4, 4096)),
    ]
)


def best(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """By falling score, then by increasing id; NaN and minus infinity left out."""
    found = np.full((len(scores), k), -np.inf), np.full((len(scores), k), -1)
    for q, row in enumerate(scores):
        order = [p for p in np.lexsort((ids, -row)) if row[p] > -np.inf and ids[p] >= 0][:k]
        found[0][q, : len(order)], found[1][q, : len(order)] = row[order], ids[order]
    return found


def integers(rng: np.random.Generator, *shape: int, largest: int) -> np.ndarray:
    """Products of them are exact in float32, and most are tied."""
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 10**6), st.sampled_from([0, 1, 2, 100]), st.booleans())
def test_the_top_k_are_those_of_a_full_sort_and_ties_go_to_the_smaller_id(
    size, seed, largest, shuffled
):
    Q, P, D, k, block = size
    rng = np.random.default_rng(seed)
    queries, pool = integers(rng, Q, D, largest=largest), integers(rng, P, D, largest=largest)
    ids = rng.permutation(3 * P)[:P] - P // 4 if shuffled else np.arange(P)  # some below 0
    wanted = best(queries.astype(np.float64) @ pool.astype(np.float64).T, ids, k)
    scores, found = top_k(queries, pool, k, ids=ids if shuffled else None, block=block)
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(found, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 10**6), st.sampled_from([0, 1, 2, 100]))
def test_the_counts_are_those_of_the_whole_matrix(size, seed, largest):
    Q, P, D, _, block = size
    rng = np.random.default_rng(seed)
    queries, pool = integers(rng, Q, D, largest=largest), integers(rng, P, D, largest=largest)
    gold = rng.integers(0, P, Q)
    wanted = rank_counts_from_scores(queries.astype(np.float64) @ pool.T, gold)
    found = rank_counts(queries, pool, gold, block=block)
    for name, counts in found._asdict().items():
        np.testing.assert_array_equal(counts, getattr(wanted, name), name)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 10**6))
def test_a_score_that_is_no_number_or_minus_infinity_never_enters_and_infinity_is_first(size, seed):
    Q, P, D, k, block = size
    rng = np.random.default_rng(seed)
    queries, pool = integers(rng, Q, D, largest=2), integers(rng, P, D, largest=2)
    odd = rng.choice([np.nan, np.inf, -np.inf], P)
    pool[:, 0] = np.where(rng.random(P) < 0.5, odd, pool[:, 0])
    with np.errstate(invalid="ignore"):
        # Not by `@`, which may leave out a product with zero.
        exact = (queries[:, None, :].astype(np.float64) * pool[None]).sum(-1)
    wanted = best(exact, np.arange(P), k)
    scores, found = top_k(queries, pool, k, block=block)
    np.testing.assert_array_equal(found, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])

    gold = rng.integers(0, P, Q)
    lowest = np.where(np.isnan(exact), -np.inf, exact)
    counts = rank_counts_from_scores(lowest, gold)
    for name, found in rank_counts(queries, pool, gold, block=block)._asdict().items():
        np.testing.assert_array_equal(found, getattr(counts, name), name)


def test_random_vectors_stored_twice_tie_to_the_last_bit():
    """What float32 rounds is the same wherever a vector lies, in an overlapping block too."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((7, 33), dtype=np.float32)
    distinct = rng.standard_normal((50, 33), dtype=np.float32)
    of = rng.integers(0, 50, 1000)
    block = (4, 256)
    found = np.asarray(top_k(queries, distinct[of], 1000, block=block)[1])
    exact = queries.astype(np.float64) @ distinct.astype(np.float64).T
    np.testing.assert_array_equal(found, best(exact[:, of], np.arange(1000), 1000)[1])
    gold = rng.integers(0, 1000, 7)
    counts = rank_counts(queries, distinct[of], gold, block=block)
    wanted = rank_counts_from_scores(exact[:, of], gold)
    for name in counts._fields:
        np.testing.assert_array_equal(getattr(counts, name), getattr(wanted, name), name)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 1.0])
def test_what_is_left_out_unseen_is_never_among_the_best(noise):
    """Candidates so near to each other that rounding to bfloat16 shuffles them all."""
    rng = np.random.default_rng(3)
    Q, P, D, k = 20, 4000, 48, 10
    scale = 10.0 ** rng.integers(-6, 7, (Q, 1))
    queries = (scale * rng.standard_normal((Q, D))).astype(np.float32)
    base = rng.standard_normal((1, D))
    pool = (base + noise * rng.standard_normal((P, D))).astype(np.float32)
    exact = queries.astype(np.float64) @ pool.astype(np.float64).T
    last = np.sort(exact, axis=1)[:, -k]
    found = np.asarray(top_k(queries, pool, k, block=(32, 512))[1])
    norms = np.linalg.norm(queries, axis=1) * np.linalg.norm(pool, axis=1).max()
    # The k best but for what float32 sums cannot tell apart.
    worst = np.take_along_axis(exact, found, 1).min(1)
    assert np.all(worst >= last - D * 2.0**-23 * norms)
    assert all(len(set(row)) == k for row in found)


def test_bfloat16_is_summed_in_float32():
    rng = np.random.default_rng(1)
    queries, pool = (jnp.asarray(rng.standard_normal((n, 96)), jnp.bfloat16) for n in (3, 500))
    exact = np.asarray(queries, np.float64) @ np.asarray(pool, np.float64).T
    wanted = best(exact, np.arange(500), 20)
    scores, found = top_k(queries, pool, 20, block=(4, 128))
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(found, wanted[1])
    np.testing.assert_allclose(scores, wanted[0], rtol=1e-5, atol=1e-5)


def test_an_own_candidate_outside_the_pool_has_no_rank():
    counts = rank_counts(
        np.ones((3, 2), np.float32), np.ones((5, 2), np.float32), np.array([-1, 5, 4])
    )
    np.testing.assert_array_equal(counts, [[0, 0, 0], [0, 0, 5], [0, 0, 0]])


def test_an_empty_pool_and_no_query_are_answered():
    scores, ids = top_k(np.ones((2, 3), np.float32), np.ones((0, 3), np.float32), 2)
    assert np.all(np.isneginf(scores)) and np.all(np.asarray(ids) == -1)
    assert top_k(np.ones((0, 3), np.float32), np.ones((4, 3), np.float32), 2)[1].shape == (0, 2)


def test_no_more_than_the_pool_is_held_and_never_all_scores():
    """1,000 queries in 200,000 x 512: the pool is 390 MiB, all scores would be 763."""
    Q, P, D = 1000, 200_000, 512
    shapes = [jax.ShapeDtypeStruct((n, D), jnp.float32) for n in (Q, P)]
    gold = jax.ShapeDtypeStruct((Q,), jnp.int32)
    for lowered in (top_k.lower(*shapes, 10), rank_counts.lower(*shapes, gold)):
        compiled = lowered.compile()
        assert f"[{Q},{P}]" not in compiled.as_text() and f"[{P},{Q}]" not in compiled.as_text()
        memory = compiled.memory_analysis()
        pool = 4 * P * D
        assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 0.2 * pool
        assert memory.argument_size_in_bytes < 1.01 * pool


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0"),
        ({"k": 1, "block": (0, 64)}, ValueError, "block=\\(0, 64\\)"),
        ({"k": 1, "ids": np.ones(4, np.float32)}, TypeError, "ids are float32"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        top_k(np.ones((1, 2), np.float32), np.ones((4, 2), np.float32), **arguments)
