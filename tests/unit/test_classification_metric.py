"""Precision, recall, F1, average precision and the best threshold, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from mmjax.metrics.base import Metric, ratio
from mmjax.metrics.classification import (
    ClassificationMetric,
    Decisions,
    average_precision,
    best_threshold,
    f1_parts,
    f1_variants,
)


def drawn(seed, size=300, steps=20):
    """Labels and probabilities that know something of them, many of them equal."""
    rng = np.random.default_rng(seed)
    label = (rng.random(size) < 0.15).astype(np.int64)
    return label, np.clip(np.round(steps * (0.3 * label + 0.7 * rng.random(size))) / steps, 0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_scikit_learns_in_percent(seed):
    label, probability = drawn(seed)
    found = ClassificationMetric(threshold=0.3).compute(Decisions(label, probability))
    for name, at in (("", probability > 0.5), ("@threshold", probability >= 0.3)):
        want = sk.precision_recall_fscore_support(label, at, average="binary")[:3]
        names = (f"{n}{name}" for n in ("precision", "recall", "f1"))
        np.testing.assert_allclose([found[n] for n in names], 100 * np.array(want), rtol=1e-12)
    want = 100 * sk.average_precision_score(label, probability)
    assert found["average_precision"] == pytest.approx(want, rel=1e-12)
    assert found["threshold"] == 0.3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
def test_every_kind_of_f1_is_scikit_learns_in_percent(seed, threshold):
    label, probability = drawn(seed)
    said = probability >= threshold  # 0: always yes; 2: always no
    found = {name: sums.value for name, sums in f1_variants(label, said).items()}
    always = {"labels": [0, 1], "zero_division": 0}
    negative, positive = sk.f1_score(label, said, average=None, **always)
    want = {"f1": positive, "f1@negative": negative}
    for kind in ("macro", "weighted", "micro"):
        want[f"f1@{kind}"] = sk.f1_score(label, said, average=kind, **always)
    assert found == pytest.approx({name: 100 * f1 for name, f1 in want.items()}, rel=1e-12)
    assert found["f1@micro"] == pytest.approx(100 * sk.accuracy_score(label, said))


def test_f1_of_a_draw_is_that_of_its_examples():
    label, probability = drawn(0)
    order = np.random.default_rng(1).integers(0, len(label), len(label))
    said = probability >= 0.3
    whole, part = (f1_variants(*given) for given in ((label, said), (label[order], said[order])))
    assert {n: s.ordered(order).value for n, s in whole.items()} == {
        n: s.value for n, s in part.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_better_f1_than_the_best(seed):
    label, probability = drawn(seed)
    best = best_threshold(label, probability)
    f1 = {
        t: sk.f1_score(label, probability >= t, zero_division=0) for t in np.linspace(0, 1.01, 203)
    }
    assert sk.f1_score(label, probability >= best) == pytest.approx(max(f1.values()), rel=1e-12)
    assert not np.isclose(probability, best, atol=1e-6).any()  # between two scores


@pytest.mark.parametrize(
    ("label", "score", "threshold"),
    [
        ([1], [0.8], 0.4),
        ([0, 1], [0.2, 0.6], 0.4),
        ([1, 0, 1], [0.9, 0.5, 0.1], 0.05),  # all: 0.8 against 2/3 for the first alone
        ([1, 1], [0.0, 0.0], 0.0),
        ([1, 0, 0, 1], [0.9, 0.9, 0.9, 0.3], 0.15),
    ],
)
def test_the_best_threshold_of_a_few_scores(label, score, threshold):
    assert best_threshold(np.array(label), np.array(score)) == pytest.approx(threshold)


def test_always_positive_has_the_precision_that_the_class_has_share():
    label = np.tile([0, 0, 0, 1], 25)
    found = ClassificationMetric(threshold=0.0).compute(Decisions(label, np.ones(100)))
    assert (found["precision"], found["recall"], found["f1"]) == (25, 100, pytest.approx(40))
    assert found["average_precision"] == pytest.approx(25)


def test_nothing_found_is_zero_and_nothing_to_find_has_no_average_precision():
    none = ClassificationMetric().compute(Decisions(np.array([0, 1]), np.array([0.1, 0.2])))
    assert (none["precision"], none["recall"], none["f1"]) == (0, 0, 0)
    assert np.isnan(average_precision(np.array([0, 0]), np.array([0.1, 0.2])))
    assert ratio(np.zeros(2), np.zeros(2)) == 0


def test_the_parts_of_a_figure_add_up_to_it():
    label, probability = drawn(9)
    metric, decisions = ClassificationMetric(0.2), Decisions(*drawn(9))
    found = metric.compute(decisions)
    for name, (values, weights) in metric.parts(decisions).items():
        assert found[name] == pytest.approx(values.sum() / weights.sum())
    assert set(f1_parts(label, probability > 0.5)) == {"precision", "recall", "f1"}


def test_batches_merge_to_the_whole_and_padding_leaves_no_trace():
    label, probability = drawn(5)
    metric = ClassificationMetric(0.4)
    assert isinstance(metric, Metric)
    state = metric.init()
    for part in np.array_split(np.arange(300), 7):
        padded = Decisions(np.append(label[part], 1), np.append(probability[part], 0.99))
        state = metric.update(state, padded, {"weight": np.append(np.ones(len(part)), 0)})
    assert metric.compute(state) == metric.compute(Decisions(label, probability))


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        best_threshold(np.array([0, 1]), np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="no scores"):
        best_threshold(np.zeros(0, np.int64), np.zeros(0))
