"""Pair terms against float64 loops over (i, j) written from the formulas."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge, pair_term
from mmjax.parallel.scores import Score, floating
from tests.pair_oracle import CROSS, DOT, LOSSES, QUICK_TO_COMPILE, Together, Towers, random_case

by_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
# Batch sizes, and tiles that divide them, do not, and are larger.
SHAPES = [(9, (4, 5)), (6, (3, 256))]


@jax.jit
def pair_accuracy(rows, columns, **options):
    sums = pair_term(rows, columns, loss=SoftmaxCE(), **options)
    return sums.right, sums.weight


@functools.partial(
    jax.jit, static_argnames=("loss", "score", "tile"), compiler_options=QUICK_TO_COMPILE
)
def value_and_gradients(
    rows, columns, scale, keys, weights, loss, score=DOT.score, tile=(256, 256)
):
    def term(*given):
        rows, columns, scale = given
        sums = pair_term(
            *(rows, columns),
            loss=loss,
            score=score,
            scale=scale,
            keys=keys,
            weights=weights,
            tile=tile,
        )
        return sums.total, sums.weight

    total, back, weight = jax.vjp(term, rows, columns, scale, has_aux=True)
    return (total, weight), floating(back(jnp.ones_like(total)))


remembered_case = functools.cache(random_case)


def check_against_oracle(loss, case, scale, tile=(256, 256)):
    with jax.enable_x64(True):
        (value, weight), gradients = value_and_gradients(
            *(case.rows, case.columns, np.float64(scale), case.keys, case.weights),
            loss,
            case.towers.kind.score,
            tile,
        )
    total, *expected, _ = case.truth(loss, scale)
    np.testing.assert_allclose(value, total, rtol=1e-6, atol=1e-6)
    assert float(weight) == pytest.approx(case.weights.sum(), rel=1e-6)
    for got, want in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@by_loss
@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_formula(loss, scale, seed):
    check_against_oracle(loss, random_case(DOT, seed, 8, duplicates=False, padding=False), scale)


@pytest.mark.parametrize(
    ("kind", "loss", "shapes"),
    [
        *((DOT, loss, SHAPES) for loss in LOSSES),
        *((CROSS, loss, SHAPES[:1]) for loss in (Together(), Sigmoid())),
    ],
    ids=lambda x: type(getattr(x, "score", x)).__name__,
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_batch_with_any_keys_weights_and_tiles_equals_the_formula(kind, loss, shapes, data):
    B, tile = data.draw(st.sampled_from(shapes))
    ids = st.lists(st.integers(-1, 3), min_size=2 * B, max_size=2 * B)
    weight = st.sampled_from([0.0, 0.0, 0.25, 1.0, 1.0, 2.5])  # so that any number is real
    case = dataclasses.replace(
        remembered_case(kind, data.draw(st.integers(0, 4)), B),
        keys=np.int32(data.draw(ids)).reshape(B, 2),
        weights=np.float32(data.draw(st.lists(weight, min_size=B, max_size=B))),
    )
    check_against_oracle(loss, case, data.draw(st.sampled_from([0.5, 1.0, 7.0])), tile)


@by_loss
def test_float32_value_and_gradient_equal_float64(loss):
    case = random_case(DOT, 5, 16)
    (value, _), (*gradients, _) = value_and_gradients(
        *(np.float32(x) for x in (case.rows, case.columns, 2.0)), case.keys, case.weights, loss
    )
    total, *expected, _, _ = case.truth(loss, 2.0)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, total, rtol=1e-6)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


@by_loss
def test_bfloat16_inputs_are_accumulated_in_float32(loss):
    case = random_case(DOT, 1, 16)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (case.rows, case.columns)]
    rows, columns = (np.asarray(x, np.float64) for x in low)
    exact = dataclasses.replace(case, towers=Towers(DOT, rows, columns))
    (value, _), _ = value_and_gradients(*low, np.float32(5.0), case.keys, case.weights, loss)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact.truth(loss, 5.0).total, rtol=2e-6)


class AnotherLastBit(Score):
    """A dot product that comes out higher by a rounding error where it is differentiated."""

    def __call__(self, rows, columns):
        return _another_last_bit(rows, columns)


@jax.custom_vjp
def _another_last_bit(rows, columns):
    return rows @ columns.T


_another_last_bit.defvjp(
    lambda rows, columns: (rows @ columns.T * (1 + 3e-7), (rows, columns)),
    lambda saved, by: (by @ saved[1], by.T @ saved[0]),
)


@by_loss
def test_the_gradient_holds_where_the_backward_pass_rounds_otherwise(loss):
    """Two parts of a compiled program need not make a score the same to the last bit."""
    case = random_case(DOT, 5, 16)
    _, gradients = value_and_gradients(
        *(np.float32(x) for x in (case.rows, case.columns, 2.0)),
        *(case.keys, case.weights, loss, AnotherLastBit()),
    )
    for got, want in zip(gradients, case.truth(loss, 2.0)[1:4], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [(3, 3), (1, 1), (2, 2)], ids=str)
def test_of_equally_hard_negatives_the_first_counts_however_they_are_tiled(tile):
    rows = jnp.array([[0.0, 1.0, 1.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    (total, _), (slope, *_) = value_and_gradients(
        *(rows, jnp.eye(3), 1.0, None, None, HardestHinge(0.2)), tile=tile
    )
    # Row 0 has columns 1 and 2 level at 1, column 0 has rows 1 and 2 level at 0.
    assert float(total) == pytest.approx(1.2 + 0.2, rel=1e-6)
    np.testing.assert_array_equal(slope, [[-2, 1, 0], [1, 0, 0], [0, 0, 0]])


@by_loss
def test_padding_changes_neither_value_nor_gradient_whatever_it_holds(loss):
    case = random_case(DOT, 2, 6, padding=False)
    garbage = np.full((2, case.rows.shape[1]), np.nan)

    (plain, n), (*plain_grads, _) = value_and_gradients(
        *[np.float32(x) for x in (case.rows, case.columns, 3.0)], case.keys, None, loss
    )
    (padded, m), (*padded_grads, _) = value_and_gradients(
        *[np.float32(np.concatenate([x, garbage])) for x in (case.rows, case.columns)],
        np.float32(3.0),
        np.concatenate([case.keys, case.keys[:2]]),
        np.float32([1] * 6 + [0] * 2),
        loss,
    )
    assert float(n) == float(m) == 6
    np.testing.assert_allclose(padded, plain, rtol=1e-6)
    for got, want in zip(padded_grads, plain_grads, strict=True):
        np.testing.assert_allclose(got[:6], want, atol=1e-6)
        np.testing.assert_array_equal(got[6:], 0)


@by_loss
@pytest.mark.parametrize("state", ["all padding", "batch of one", "all keys equal"])
def test_without_negatives_loss_and_gradient_are_zero(loss, state):
    B = 1 if state == "batch of one" else 4
    case = random_case(DOT, 3, B, padding=False)
    weights = np.float32(np.zeros(4) if state == "all padding" else np.ones(B))
    keys = np.zeros_like(case.keys) if state == "all keys equal" else case.keys

    (value, weight), gradients = value_and_gradients(
        *[np.float32(x) for x in (case.rows, case.columns, 2.0)], keys, weights, loss
    )
    if isinstance(loss, Sigmoid):  # it judges the positives too
        similarity = (case.rows * case.columns).sum(axis=1)
        alone = np.log1p(np.exp(-2.0 * similarity)) * weights
        assert float(value) == pytest.approx(alone.sum(), rel=1e-5)
        return
    assert float(value) == 0 and float(weight) == weights.sum()
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@by_loss
def test_nan_in_a_real_example_shows_in_the_sum(loss):
    case = random_case(DOT, 4, 8)
    case.rows[2, 0] = np.nan
    (value, _), _ = value_and_gradients(case.rows, case.columns, 1.0, None, None, loss)
    assert np.isnan(value)


def test_where_all_embeddings_are_the_same_accuracy_is_chance():
    """Also where the own score and the others are summed in another order."""
    same = jnp.broadcast_to(np.random.default_rng(0).normal(size=384).astype(np.float32), (8, 384))
    correct, weight = pair_accuracy(same, same)
    assert float(correct) == pytest.approx(1) and float(weight) == 8


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
