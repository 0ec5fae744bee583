"""The permutation test: right p-values where there is nothing, small ones where there is much."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmjax.metrics.permutation import expected_hits, permutation_test
from mmjax.metrics.retrieval import rank_counts_from_scores, recall_at_k


def test_expected_hits_are_recalls_for_every_photo_as_if_it_were_the_right_one():
    scores = np.random.default_rng(0).integers(0, 4, (6, 5)).astype(float)  # with ties
    for k in (1, 2, 5):
        hits = expected_hits(scores, k)
        for p in range(5):
            counts = rank_counts_from_scores(scores, np.full(6, p))
            np.testing.assert_allclose(hits[:, p], recall_at_k(counts, k))


def test_the_p_value_is_that_of_all_permutations():
    rng = np.random.default_rng(1)
    gold = np.array([0, 0, 1, 2, 3, 3])
    scores = rng.normal(size=(6, 4))
    scores[np.arange(6), gold] += 0.7
    hits = expected_hits(scores, 1)
    observed = hits[np.arange(6), gold].sum()
    every = [hits[np.arange(6), np.array(p)[gold]].sum() for p in itertools.permutations(range(4))]
    exact = np.mean(np.array(every) >= observed - 1e-9)
    found = permutation_test([(scores, gold)], k=1, permutations=20_000)
    assert found.observed == pytest.approx(100 * observed / 6)
    assert found.p_value == pytest.approx(exact, abs=0.015)
    assert found.chance == pytest.approx(100 * np.mean(every) / 6, abs=1)


def test_photos_stay_in_their_fold():
    """A score that only tells the folds apart is worth nothing."""
    folds = [(np.full((4, 4), float(f)), np.arange(4)) for f in range(3)]
    found = permutation_test(folds, k=1, permutations=50)
    assert found.p_value == 1 and found.observed == pytest.approx(25)


def test_captions_of_one_photo_are_one_observation():
    """Five captions that agree by luck are not five lucky captions."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(60):
        one = rng.normal(size=(12, 12))
        scores, gold = np.repeat(one, 5, axis=0), np.repeat(np.arange(12), 5)
        p_values.append(permutation_test([(scores, gold)], k=3, permutations=199).p_value)
    assert np.mean(np.array(p_values) <= 0.05) < 0.15
    assert 0.35 < np.mean(p_values) < 0.75


def test_what_is_found_is_far_from_chance():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(80, 40)) + 2 * np.eye(40)[np.repeat(np.arange(40), 2)]
    found = permutation_test([(scores, np.repeat(np.arange(40), 2))], permutations=999)
    assert found.p_value == pytest.approx(0.001) and found.chance == pytest.approx(25, abs=3)
