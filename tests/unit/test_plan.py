"""The plan: batch k is a pure function, an epoch a permutation, a mixture exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.data import plan as plan_lib
from mmjax.data.plan import EvalPlan, TrainPlan, shuffled_index


def stream(plan: TrainPlan, batches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = [plan.batch(k) for k in range(batches)]
    return tuple(
        np.concatenate([getattr(b, name) for b in found]) for name in ("source", "example", "epoch")
    )


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), key=st.integers(-(2**40), 2**70))
def test_a_shuffle_is_a_permutation_of_any_size(size, key):
    image = shuffled_index(np.arange(size, dtype=np.uint64), size, (key, 3))
    np.testing.assert_array_equal(np.sort(image), np.arange(size))


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (10, 4), (64, 64), (37, 50), (101, 8)])
def test_each_epoch_is_a_permutation_and_drops_nothing(size, batch_size):
    epochs = 4
    _, example, epoch = stream(TrainPlan([size], batch_size, seed=3), size * epochs)
    for e in range(epochs):
        np.testing.assert_array_equal(np.sort(example[epoch == e]), np.arange(size))
    assert (np.diff(epoch) >= 0).all()


def test_several_sources_without_weights_are_shuffled_as_one():
    source, example, epoch = stream(TrainPlan([5, 1, 14], 4, seed=3), 10)
    for e in range(2):
        of_epoch = set(zip(source[epoch == e].tolist(), example[epoch == e].tolist(), strict=True))
        assert of_epoch == {(s, i) for s, n in enumerate([5, 1, 14]) for i in range(n)}
    assert (source[:5] != 0).any()  # not one source after the other


def test_seeds_and_epochs_give_other_orders():
    _, example, epoch = stream(TrainPlan([200], 50, seed=0), 8)
    assert (example[epoch == 0] != example[epoch == 1]).any()
    _, other, _ = stream(TrainPlan([200], 50, seed=1), 8)
    assert (example != other).any()
    assert len(np.unique(np.stack([example[:200], example[200:], other[:200]]), axis=0)) == 3


def test_a_batch_depends_on_its_number_alone():
    plan = TrainPlan([70, 30], 16, seed=5, weights=[1, 2])
    forward = [plan.batch(k) for k in range(20)]
    for k in reversed(range(20)):
        again = TrainPlan([70, 30], 16, seed=5, weights=[1, 2]).batch(k)
        for name in ("source", "example", "epoch"):
            np.testing.assert_array_equal(getattr(forward[k], name), getattr(again, name))


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_seeking_costs_the_same_wherever_it_goes(monkeypatch, weights):
    work = []
    mix = plan_lib._mix
    monkeypatch.setattr(plan_lib, "_mix", lambda x: work.append(x.size) or mix(x))
    plan = TrainPlan([100_000, 7], 64, seed=0, weights=weights)
    cost = []
    for k in (0, 1000, 10**9, 10**12):
        work.clear()
        assert plan.batch(k).example.shape == (64,)
        cost.append((len(work), sum(work)))
    calls, elements = zip(*cost, strict=True)
    # Cycle walking varies a little; anything that grows with k would be far beyond this.
    assert max(calls) < 2 * min(calls) + 200
    assert max(elements) < 2 * min(elements)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8, 24])
def test_the_slices_of_any_number_of_processes_make_the_global_batch(processes):
    whole = TrainPlan([50, 9], 24, seed=2).batch(7)
    parts = [whole.rows(rows) for rows in np.split(np.arange(24), processes)]
    for name in ("source", "example", "epoch"):
        together = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole, name))


def test_a_mixture_keeps_its_weights_exactly_over_every_pattern():
    plan = TrainPlan([10, 1000, 3], 64, seed=0, weights=[0.5, 0.3, 0.2])
    source, _, _ = stream(plan, 3 * 16)
    for lap in source.reshape(3, 1024):
        np.testing.assert_array_equal(np.bincount(lap), [512, 307, 205])
    # Within the pattern they are mixed: no long run of one source.
    longest = np.diff(np.flatnonzero(np.diff(source, prepend=-1, append=-1))).max()
    assert longest < 30


def test_each_source_of_a_mixture_passes_through_whole_epochs():
    source, example, epoch = stream(TrainPlan([10, 333, 3], 64, seed=0, weights=[5, 3, 2]), 48)
    for s, size in enumerate([10, 333, 3]):
        mine = source == s
        for e in range(epoch[mine].max()):
            found = np.sort(example[mine & (epoch == e)])
            np.testing.assert_array_equal(found, np.arange(size))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, 1e-6]])
def test_weights_that_make_no_mixture_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        TrainPlan([5, 5], 4, seed=0, weights=weights)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="every source needs an example"):
        TrainPlan([5, 0], 4, seed=0)


def test_the_order_is_pinned():
    """Another order would continue old runs with examples that they have already seen."""
    plan = TrainPlan([10], 4, seed=7)
    assert [plan.batch(k).example.tolist() for k in range(6)] == [
        [7, 9, 2, 8],
        [4, 1, 6, 0],
        [3, 5, 2, 3],
        [5, 0, 6, 4],
        [8, 9, 1, 7],
        [7, 1, 2, 5],
    ]
    far = TrainPlan([100_000], 6, seed=0).batch(10**9)
    assert far.example.tolist() == [60031, 81439, 51836, 55000, 11785, 76390]
    assert far.epoch.tolist() == [60_000] * 6
    joined = TrainPlan([5, 3], 8, seed=1).batch(2)
    assert joined.source.tolist() == [0, 1, 0, 0, 1, 0, 0, 1]
    assert joined.example.tolist() == [3, 1, 0, 1, 2, 4, 2, 0]
    mixed = TrainPlan([5, 3], 8, seed=1, weights=[3, 1]).batch(100)
    assert mixed.source.tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    assert mixed.example.tolist() == [3, 2, 0, 4, 1, 1, 0, 2]
    assert mixed.epoch.tolist() == [119, 67, 120, 120, 120, 67, 67, 68]


def test_every_example_is_equally_likely_at_every_position():
    size, shuffles = 50, 2000
    count = np.zeros((size, size))
    pairs = np.zeros((size, size))
    for seed in range(shuffles):
        image = shuffled_index(np.arange(size, dtype=np.uint64), size, (seed, -2, 0))
        count[np.arange(size), image] += 1
        pairs[image[:-1], image[1:]] += 1
    assert within_chi_square(count, shuffles / size, (size - 1) ** 2)
    # Neighbours are no more likely to be any pair than another.
    off = pairs[~np.eye(size, dtype=bool)]
    assert within_chi_square(off, off.mean(), off.size - 1)


def within_chi_square(count: np.ndarray, expected: float, freedom: int) -> bool:
    statistic = ((count - expected) ** 2 / expected).sum()
    return abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(("size", "batch_size"), [(1, 8), (16, 8), (17, 8), (5, 1)])
def test_an_evaluation_takes_every_example_once_in_order_and_pads_the_rest(size, batch_size):
    order = np.random.default_rng(0).permutation(size)
    plan = EvalPlan(order, batch_size)
    batches = [plan.batch(k) for k in range(len(plan))]
    example = np.concatenate([b.example for b in batches])
    assert all(b.example.shape == (batch_size,) for b in batches)
    np.testing.assert_array_equal(example[:size], order)
    assert (example[size:] == -1).all() and len(example) - size < batch_size


LENGTHS = np.random.default_rng(0).geometric(0.02, size=1000)


@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
def test_a_window_has_the_examples_of_its_batches_sorted_by_length(weights):
    lengths = [LENGTHS[:700], LENGTHS[700:]]
    sizes = [len(x) for x in lengths]
    plain = TrainPlan(sizes, 10, seed=2, weights=weights)
    sorted_plan = TrainPlan(sizes, 10, seed=2, weights=weights, window=8, lengths=lengths)

    def rows(batches):
        return [
            (int(s), int(i), int(e))
            for b in batches
            for s, i, e in zip(b.source, b.example, b.epoch, strict=True)
        ]

    orders = []
    for window in range(30):  # through three epochs, with windows that span two
        numbers = range(8 * window, 8 * window + 8)
        found = [sorted_plan.batch(k) for k in numbers]
        assert sorted(rows(found)) == sorted(rows(plain.batch(k) for k in numbers))
        spans = [
            sorted(lengths[s][i] for s, i in zip(b.source, b.example, strict=True)) for b in found
        ]
        order = np.argsort([span[0] + span[-1] for span in spans], kind="stable")
        for shorter, longer in itertools.pairwise(order):
            assert spans[shorter][-1] <= spans[longer][0]
        orders.append(tuple(order))
    assert len(set(orders)) > 25  # and not from the shortest to the longest each time


def test_a_batch_of_a_window_depends_on_its_number_alone():
    def made(k):
        return TrainPlan([1000], 10, seed=2, window=8, lengths=[LENGTHS]).batch(k).example

    forward = [made(k) for k in range(20)]
    for k in reversed(range(20)):
        np.testing.assert_array_equal(made(k), forward[k])
    # Pinned, as the order of the stream is.
    assert made(10**9).tolist() == [771, 788, 842, 76, 156, 955, 928, 412, 70, 443]


def test_a_window_without_lengths_is_refused():
    with pytest.raises(ValueError, match="window of 4 batches needs the examples' lengths"):
        TrainPlan([5], 2, seed=0, window=4)
