"""Bootstrap intervals against scipy and the normal approximation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from mmjax.metrics.bootstrap import bootstrap_interval, paired_bootstrap


@pytest.fixture
def values():
    return np.random.default_rng(1).gamma(2.0, 20.0, size=400)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_equals_scipys_percentile_bootstrap(values, level):
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=10_000, method="percentile",
        rng=np.random.default_rng(7), batch=1000,
    ).confidence_interval  # fmt: skip
    found = bootstrap_interval(values, level=level)
    # Two independent sets of 10,000 resamples agree to a few hundredths of the standard error.
    error = values.std() / np.sqrt(len(values))
    np.testing.assert_allclose(found, expected, atol=0.08 * error)


def test_interval_is_near_the_normal_approximation(values):
    error = values.std() / np.sqrt(len(values))
    normal = values.mean() - 1.96 * error, values.mean() + 1.96 * error
    np.testing.assert_allclose(bootstrap_interval(values), normal, atol=0.15 * error)


def test_same_seed_same_interval(values):
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_paired_interval_sees_a_small_difference_that_single_intervals_hide(values):
    better = values + np.random.default_rng(2).normal(0.5, 1.0, size=len(values))
    difference, low, high = paired_bootstrap(better, values)
    assert difference == pytest.approx((better - values).mean())
    assert 0 < low < difference < high
    assert bootstrap_interval(better)[0] < bootstrap_interval(values)[1]
    swapped = paired_bootstrap(values, better)
    np.testing.assert_allclose(swapped, (-difference, -high, -low), rtol=1e-12)


def test_equal_values_give_an_interval_of_no_width():
    assert bootstrap_interval(np.full(5, 2.0)) == (2.0, 2.0)
    assert bootstrap_interval(np.array([3.0])) == (3.0, 3.0)


def test_no_values_nan_and_unpaired_values_are_refused(values):
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_interval(np.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_interval(np.array([1.0, np.nan]))
    # With shapes checked at run time the annotation refuses it first, as a TypeError.
    with pytest.raises((ValueError, TypeError), match="paired"):
        paired_bootstrap(values, values[:-1])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(values, level=95.0)


def test_groups_are_drawn_whole():
    """Five equal captions of a photo are one observation: the interval is that of the photos."""
    photos = np.random.default_rng(0).normal(size=60)
    values, groups = np.repeat(photos, 5), np.repeat(np.arange(60)[::-1], 5)
    found = bootstrap_interval(values, groups=groups)
    np.testing.assert_allclose(found, bootstrap_interval(photos[::-1]), rtol=1e-9)
    alone = bootstrap_interval(values)
    assert found[1] - found[0] > 2 * (alone[1] - alone[0])


def test_groups_of_different_size_are_weighed_by_it():
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 2])
    assert bootstrap_interval(values, groups=groups) == (0.0, 1.0)
    assert bootstrap_interval(values, groups=np.arange(4)) == bootstrap_interval(values)


def counts(rng, dialogues=80, turns=6):
    """Labels, decisions and dialogue of some turns, good and bad dialogues among them."""
    skill = np.repeat(rng.beta(2, 2, dialogues), turns)
    label = (rng.random(len(skill)) < 0.3).astype(float)
    said = np.where(rng.random(len(skill)) < skill, label, 1 - label)
    return label, said, np.repeat(np.arange(dialogues), turns)


def test_the_interval_of_f1_is_that_of_f1_computed_anew_in_every_draw_of_dialogues():
    label, said, dialogue = counts(np.random.default_rng(3))
    of = np.arange(80)
    expected = scipy.stats.bootstrap(
        (of,),
        lambda drawn: f1_score(
            np.concatenate([label[dialogue == d] for d in drawn]),
            np.concatenate([said[dialogue == d] for d in drawn]),
        ),
        n_resamples=1000, method="percentile", vectorized=False, rng=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    values, weights = 2 * label * said, label + said
    found = bootstrap_interval(values, weights, groups=dialogue)
    np.testing.assert_allclose(found, expected, atol=0.012)
    alone = bootstrap_interval(values, weights)
    assert found[1] - found[0] > alone[1] - alone[0]


def test_a_difference_of_f1_is_drawn_in_pairs_of_dialogues():
    rng = np.random.default_rng(4)
    label, said, dialogue = counts(rng)
    better = np.where(rng.random(len(said)) < 0.1, label, said)
    a, b = 2 * label * better, 2 * label * said
    weights = (label + better, label + said)
    difference, low, high = paired_bootstrap(a, b, weights=weights, groups=dialogue)
    assert difference == pytest.approx(f1_score(label, better) - f1_score(label, said))
    assert 0 < low < difference < high
    back = paired_bootstrap(b, a, weights=weights[::-1], groups=dialogue)
    np.testing.assert_allclose(back, (-difference, -high, -low), rtol=1e-12)
    assert bootstrap_interval(a, weights[0], groups=dialogue)[0] < f1_score(label, said)


def test_a_draw_of_nothing_by_nothing_is_zero():
    zeros = np.zeros(3)
    assert bootstrap_interval(zeros, zeros) == (0.0, 0.0)
    assert paired_bootstrap(zeros, zeros, weights=(zeros, zeros)) == (0.0, 0.0, 0.0)
