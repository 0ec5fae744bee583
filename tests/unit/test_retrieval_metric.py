"""Ranks and recall against brute force over the orders of tied items."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.metrics.base import Mean
from mmjax.metrics.retrieval import (
    RetrievalMetric,
    rank_counts_from_embeddings,
    rank_counts_from_scores,
    ranking_from_embeddings,
    ranking_from_scores,
    recall_at_k,
)


def orders(scores):
    """All rankings of the items by descending score: one per order of the tied ones."""
    levels = sorted(set(scores), reverse=True)
    groups = [[i for i, s in enumerate(scores) if s == level] for level in levels]
    for choice in itertools.product(*(itertools.permutations(g) for g in groups)):
        yield [i for group in choice for i in group]


def tied_scores(seed, Q=6, P=6):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, size=(Q, P)) / 4, rng.integers(0, P, size=Q)


def grid_embeddings(seed, Q=37, P=80, D=8):
    """Embeddings on a coarse grid: every dot product is exact, whatever the order of summation."""
    rng = np.random.default_rng(seed)
    queries, pool = (rng.integers(-2, 3, size=(n, D)).astype(np.float32) for n in (Q, P))
    return queries, pool, rng.integers(0, P, size=Q)


def padded(x, start, size):
    """Batch of `size` entries from `start` on, the last one filled up with wrong ones."""
    return np.resize(x[start : start + size], size)


def assert_same(found, expected):
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7))
def test_recall_is_the_mean_or_the_worst_over_all_orders_of_ties(seed, k):
    scores, gold = tied_scores(seed)
    counts = rank_counts_from_scores(scores, gold)
    for q in range(len(gold)):
        hits = [gold[q] in order[:k] for order in orders(scores[q])]
        assert recall_at_k(counts, k)[q] == pytest.approx(np.mean(hits))
        assert recall_at_k(counts, k, "pessimistic")[q] == min(hits)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7))
def test_argsort_reversed_is_numpys_stable_argsort_read_backwards(seed, k):
    scores, gold = tied_scores(seed)
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    hits = (order[:, :k] == gold[:, None]).any(axis=1)
    found = recall_at_k(rank_counts_from_scores(scores, gold), k, "argsort_reversed")
    np.testing.assert_array_equal(found, hits)


def test_metric_figures_are_those_of_all_orders_of_ties():
    scores, gold = tied_scores(3)
    ranks = [[o.index(g) + 1 for o in orders(s)] for s, g in zip(scores, gold, strict=True)]
    metric = RetrievalMetric(ks=(1, 3))
    state = metric.update(metric.init(), rank_counts_from_scores(scores, gold), {})
    result = metric.compute(state)
    assert list(result) == ["recall@1", "recall@3", "recall_sum", "mrr", "median_rank"]
    for k in (1, 3):
        expected = 100 * np.mean([np.mean(np.array(r) <= k) for r in ranks])
        assert result[f"recall@{k}"] == pytest.approx(expected)
    assert result["recall_sum"] == pytest.approx(result["recall@1"] + result["recall@3"])
    assert metric.recall_sum(state).mean() == pytest.approx(result["recall_sum"])
    assert result["mrr"] == pytest.approx(np.mean([np.mean(1 / np.array(r)) for r in ranks]))
    assert result["median_rank"] == pytest.approx(np.median([np.mean(r) for r in ranks]))


@pytest.mark.parametrize("ties", ["expected", "pessimistic", "argsort_reversed"])
def test_without_ties_every_rule_gives_the_plain_figures(ties):
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(50, 30)), rng.integers(0, 30, size=50)
    rank = 1 + (scores > np.take_along_axis(scores, gold[:, None], 1)).sum(1)
    metric = RetrievalMetric(ties=ties)
    result = metric.compute(rank_counts_from_scores(scores, gold))
    assert result["recall@5"] == pytest.approx(100 * (rank <= 5).mean())
    assert result["mrr"] == pytest.approx((1 / rank).mean())
    assert result["median_rank"] == np.median(rank)


def test_merged_batches_equal_one_batch_and_padding_leaves_no_trace():
    scores, gold = tied_scores(4, Q=10)
    whole = rank_counts_from_scores(scores, gold)
    metric = RetrievalMetric(ks=(1, 5))
    parts = []
    for start in (0, 4, 8):
        batch = jax.tree.map(functools.partial(padded, start=start, size=4), whole)
        weight = np.arange(start, start + 4) < 10
        parts.append(metric.update(metric.init(), batch, {"weight": weight}))
    merged = metric.merge(metric.merge(metric.init(), parts[0]), metric.merge(*parts[1:]))
    assert_same(merged, whole)
    assert metric.compute(merged) == metric.compute(whole)


def test_counts_from_embeddings_are_those_of_all_scores():
    queries, pool, gold = grid_embeddings(0)
    expected = rank_counts_from_scores(queries @ pool.T, gold)
    assert (expected.equal > 1).sum() > 10  # the case has ties
    assert_same(rank_counts_from_embeddings(queries, pool, gold), expected)


@pytest.mark.parametrize("k", [1, 7, 100])
def test_a_ranking_from_embeddings_is_the_one_from_all_scores(k):
    queries, pool, gold = grid_embeddings(1)
    expected = ranking_from_scores(queries @ pool.T, gold, k)
    found = ranking_from_embeddings(queries, pool, gold, k)
    assert_same(found.counts, expected.counts)
    np.testing.assert_array_equal(found.own, expected.own)
    # No more columns than candidates, however many are asked for: "all of them" must cost no more.
    np.testing.assert_array_equal(found.top, expected.top)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_ranking_works_inside_a_mesh():
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    queries, pool, gold = grid_embeddings(5)
    outside = rank_counts_from_embeddings(queries, pool, gold)
    with jax.set_mesh(mesh):
        inside = rank_counts_from_embeddings(queries, pool, gold)
    assert_same(inside, outside)


def test_nan_never_becomes_a_good_rank():
    queries, pool, gold = grid_embeddings(6)
    for spoiled, name in ((queries, "query 3"), (pool, "candidate 3")):
        for odd in (np.nan, np.inf):
            spoiled[3, 2] = odd
            with pytest.raises(ValueError, match=name):
                rank_counts_from_embeddings(queries, pool, gold)
        spoiled[3, 2] = 0
    scores = np.zeros((4, 5))
    scores[2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        rank_counts_from_scores(scores, np.zeros(4, int))


def test_indices_outside_the_pool_and_no_queries_are_refused():
    with pytest.raises(ValueError, match="outside the pool"):
        rank_counts_from_scores(np.zeros((1, 3)), np.array([3]))
    with pytest.raises(ValueError, match="outside the pool"):
        rank_counts_from_embeddings(np.zeros((1, 2)), np.zeros((2, 2)), np.array([2]))
    with pytest.raises(ValueError, match="no queries"):
        RetrievalMetric().compute(RetrievalMetric().init())


def test_mean_weighs_by_the_terms_weights():
    mean = Mean(("loss", "accuracy"))
    a = mean.update(mean.init(), {"loss": (6.0, 2.0), "accuracy": (0.0, 0.0)})
    b = mean.update(mean.init(), {"loss": (1.0, 2.0), "accuracy": (0.0, 0.0)})
    result = mean.compute(mean.merge(a, b))
    assert result["loss"] == 1.75 and np.isnan(result["accuracy"])
