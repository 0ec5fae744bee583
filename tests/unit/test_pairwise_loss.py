"""Pair terms against float64 loops over (i, j) written from the formulas."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge, pair_term
from tests.pair_oracle import oracle, random_case

LOSSES = [SoftmaxCE(), SumHinge(0.2), HardestHinge(0.2), Sigmoid()]
by_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)


def pair_accuracy(rows, columns, **options):
    sums = pair_term(rows, columns, loss=SoftmaxCE(), **options)
    return sums.right, sums.weight


@functools.partial(jax.jit, static_argnames="loss")
def value_and_gradients(rows, columns, scale, keys, weights, loss):
    def term(rows, columns, scale):
        sums = pair_term(rows, columns, loss=loss, scale=scale, keys=keys, weights=weights)
        return sums.total, sums.weight

    return jax.value_and_grad(term, argnums=(0, 1, 2), has_aux=True)(rows, columns, scale)


def check_against_oracle(loss, rows, columns, keys, weights, scale):
    with jax.enable_x64(True):
        (value, weight), gradients = value_and_gradients(
            rows, columns, np.float64(scale), keys, weights, loss
        )
    total, *expected = oracle(rows, columns, loss, scale, keys, weights)
    np.testing.assert_allclose(value, total, rtol=1e-6, atol=1e-6)
    assert float(weight) == weights.sum()
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@by_loss
@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_formula(loss, scale, seed):
    rows, columns, keys, weights = random_case(seed, duplicates=False, padding=False)
    check_against_oracle(loss, rows, columns, keys, weights, scale)


@by_loss
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.5, 1.0, 7.0]))
def test_duplicates_and_padding_equal_the_formula(loss, seed, scale):
    check_against_oracle(loss, *random_case(seed), scale)


@by_loss
def test_float32_value_and_gradient_equal_float64(loss):
    rows, columns, keys, weights = random_case(5, B=16, D=32)

    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    (value, _), (*gradients, _) = value_and_gradients(
        rows, columns, np.float32(2.0), keys, weights, loss
    )
    total, *expected, _ = oracle(rows, columns, loss, 2.0, keys, weights)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, total, rtol=1e-6)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


@by_loss
def test_bfloat16_inputs_are_accumulated_in_float32(loss):
    rows, columns, keys, weights = random_case(1, B=16, D=256)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (rows, columns)]
    exact = [np.asarray(x, np.float64) for x in low]
    value, *_ = pair_term(
        *low, loss=loss, scale=5.0, keys=jnp.asarray(keys), weights=jnp.asarray(weights)
    )
    assert value.dtype == jnp.float32
    total, *_ = oracle(*exact, loss, 5.0, keys, weights)
    np.testing.assert_allclose(value, total, rtol=2e-6)


@by_loss
def test_padding_changes_neither_value_nor_gradient_whatever_it_holds(loss):
    rows, columns, keys, _ = random_case(2, B=6)
    garbage = np.full((2, rows.shape[1]), np.nan)

    (plain, n), (*plain_grads, _) = value_and_gradients(
        *[np.float32(x) for x in (rows, columns, 3.0)], keys, None, loss
    )
    (padded, m), (*padded_grads, _) = value_and_gradients(
        *[np.float32(np.concatenate([x, garbage])) for x in (rows, columns)],
        np.float32(3.0),
        np.concatenate([keys, keys[:2]]),
        np.float32([1] * 6 + [0] * 2),
        loss,
    )
    assert float(n) == float(m) == 6
    np.testing.assert_allclose(padded, plain, rtol=1e-6)
    for got, want in zip(padded_grads, plain_grads, strict=True):
        np.testing.assert_allclose(got[:6], want, atol=1e-6)
        np.testing.assert_array_equal(got[6:], 0)


@by_loss
@pytest.mark.parametrize("case", ["all padding", "batch of one", "all keys equal"])
def test_without_negatives_loss_and_gradient_are_zero(loss, case):
    rows, columns, keys, weights = random_case(3, B=1 if case == "batch of one" else 4)
    weights = np.zeros(4) if case == "all padding" else np.ones(len(rows))
    keys = np.zeros_like(keys) if case == "all keys equal" else keys

    (value, weight), gradients = value_and_gradients(
        *[np.float32(x) for x in (rows, columns, 2.0)], keys, np.float32(weights), loss
    )
    if isinstance(loss, Sigmoid):  # it judges the positives too
        similarity = (rows * columns).sum(axis=1)
        alone = np.log1p(np.exp(-2.0 * similarity)) * weights
        assert float(value) == pytest.approx(alone.sum(), rel=1e-5)
        return
    assert float(value) == 0 and float(weight) == weights.sum()
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@by_loss
def test_nan_in_a_real_example_shows_in_the_sum(loss):
    rows, columns, _, _ = random_case(4)
    rows[2, 0] = np.nan
    value, *_ = pair_term(jnp.asarray(rows), jnp.asarray(columns), loss=loss)
    assert np.isnan(value)


def test_keys_are_compared_column_by_column_and_negative_ids_equal_nothing():
    rows = columns = jnp.eye(4)
    none, *_ = pair_term(rows, columns, loss=SumHinge(1.5))
    absent, *_ = pair_term(rows, columns, loss=SumHinge(1.5), keys=jnp.full((4, 2), -1))
    crossed, *_ = pair_term(
        rows, columns, loss=SumHinge(1.5), keys=jnp.array([[1, 2], [2, 1], [3, 4], [5, 6]])
    )
    shared, *_ = pair_term(
        rows, columns, loss=SumHinge(1.5), keys=jnp.array([[1, 7], [2, 7], [3, 4], [5, 6]])
    )
    # Twelve ordered pairs, two directions, 0.5 each; one shared key takes two pairs out.
    assert float(none) == float(absent) == float(crossed) == 12.0
    assert float(shared) == 10.0


def test_accuracy_counts_wins_ties_by_share_and_ignores_padding_and_duplicates():
    columns = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.0, 1.0]])
    weights = jnp.array([1.0, 1.0, 1.0, 0.0])
    correct, weight = pair_accuracy(rows, columns, weights=weights)
    assert (float(correct), float(weight)) == (1.0, 3.0)  # two halves, one miss
    keys = jnp.array([[4], [4], [5], [6]])
    correct, _ = pair_accuracy(rows, columns, keys=keys, weights=weights)
    assert float(correct) == 2.0
    correct, _ = pair_accuracy(rows.at[0, 0].set(jnp.nan), columns, keys=keys, weights=weights)
    assert float(correct) == 1.0
    # A NaN column is a miss for every row whose negative it is.
    correct, _ = pair_accuracy(jnp.eye(3), jnp.eye(3).at[0, 2].set(jnp.nan))
    assert float(correct) == 0.0
