"""Padding says nothing, buckets are few, and random draws belong to the example."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.data.featurize import Ragged, buckets_up_to, collate, example_rng


@pytest.mark.parametrize(
    ("longest", "buckets"),
    [
        (1, (1,)),
        (16, (16,)),
        (20, (16, 20)),
        (32, (16, 32)),
        (128, (16, 32, 64, 128)),
        (130, (16, 32, 64, 128, 130)),
    ],
)
def test_buckets_double_up_to_the_longest(longest, buckets):
    assert buckets_up_to(longest) == buckets


def test_a_batch_takes_the_smallest_bucket_that_holds_it():
    ragged = Ragged(pad=0, buckets=buckets_up_to(64))
    assert [ragged.padded_length(n) for n in (0, 1, 16, 17, 33, 64)] == [16, 16, 16, 32, 64, 64]
    with pytest.raises(ValueError, match="65 elements do not fit the longest bucket 64"):
        ragged.padded_length(65)


def test_rows_are_padded_with_the_pad_value_and_masked():
    features = [
        {"ids": np.array([5, 6, 7], np.int32), "score": np.array([1.0, 2.0], np.float32)},
        None,
        {"ids": np.array([8], np.int32), "score": np.array([3.0, 4.0], np.float32)},
    ]
    batch = collate(features, features[0], {"ids": Ragged(9, (4,))}, {"ids": 4})
    np.testing.assert_array_equal(batch["ids"]["ids"], [[5, 6, 7, 9], [9] * 4, [8, 9, 9, 9]])
    np.testing.assert_array_equal(
        batch["ids"]["mask"], np.array([[1, 1, 1, 0], [0] * 4, [1, 0, 0, 0]], bool)
    )
    np.testing.assert_array_equal(batch["score"], [[1, 2], [0, 0], [3, 4]])
    assert batch["ids"]["ids"].dtype == np.int32 and batch["score"].dtype == np.float32


def test_an_example_longer_than_the_index_said_is_no_silent_cut():
    long = {"ids": np.arange(5, dtype=np.int32)}
    with pytest.raises(ValueError, match="could not broadcast"):
        collate([long], long, {"ids": Ragged(0, (4,))}, {"ids": 4})


def test_draws_depend_on_seed_source_example_and_epoch_and_on_nothing_else():
    def draw(*key):
        return example_rng(*key).random(4).tolist()

    assert draw(1, 2, 3, 4) == draw(1, 2, 3, 4)
    keys = [(1, 2, 3, 4), (0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (-1, 2, 3, 4)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_draws_are_pinned():
    """Other draws would make a run that continues differ from one that was never stopped."""
    assert example_rng(0, 0, 0, 0).integers(0, 1000, 4).tolist() == [135, 14, 937, 257]
