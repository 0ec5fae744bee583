"""SCAN's score is its formula's, in every variant; padding is not there."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmjax.losses.pairwise import HardestHinge, pair_term
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from tests.pair_oracle import QUICK_TO_COMPILE, looped
from tests.scan_oracle import scan_scores

VARIANTS = [(d, p) for d in ("t-i", "i-t") for p in ("avg", "lse", "max", "sum")]
by_variant = pytest.mark.parametrize(("direction", "pooling"), VARIANTS)


def drawn(seed: int, texts=4, photos=3, W=7, R=5, D=12, garbage=np.nan):
    """Texts of 1 to W words and photos of 1 to R regions, of any length; garbage beyond."""
    rng = np.random.default_rng(seed)

    def side(n, most):
        count = np.array([most, 1, *rng.integers(1, most + 1, n - 2)])
        mask = np.arange(most) < count[:, None]
        x = rng.normal(size=(n, most, D)) * rng.uniform(0.3, 2, (n, most, 1))
        return np.where(mask[..., None], x, garbage).astype(np.float32), mask

    (words, said), (regions, there) = side(texts, W), side(photos, R)
    return {"words": words, "mask": said}, {"regions": regions, "mask": there}


@functools.cache
def compiled(direction, pooling):
    """(rows, columns, slope) -> scores, and the gradients of words and regions."""
    score = StackedCrossAttention(direction, pooling, smoothing=4.0, lse_smoothing=5.0)

    def both(rows, columns, slope):
        def of(words, regions):
            return score({**rows, "words": words}, {**columns, "regions": regions})

        found, back = jax.vjp(of, rows["words"], columns["regions"])
        return found, back(slope)

    return jax.jit(both, compiler_options=QUICK_TO_COMPILE)


SLOPE = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@by_variant
def test_every_variant_and_its_gradients_are_those_of_float64_loops(direction, pooling):
    rows, columns = drawn(1)
    scores, leaves = scan_scores(
        rows, columns, direction=direction, pooling=pooling, smoothing=4.0, lse_smoothing=5.0
    )
    wanted = torch.autograd.grad(scores, leaves, torch.tensor(SLOPE, dtype=torch.float64))
    found, gradients = compiled(direction, pooling)(rows, columns, SLOPE)
    np.testing.assert_allclose(found, scores.detach(), rtol=1e-5, atol=1e-5)
    for got, want, mask in zip(gradients, wanted, (rows["mask"], columns["mask"]), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)
        assert not np.asarray(got)[~mask].any()


@by_variant
def test_what_stands_at_padding_changes_nothing_to_the_last_bit(direction, pooling):
    run = compiled(direction, pooling)
    wanted, found = (run(*drawn(2, garbage=x), SLOPE) for x in (0.0, np.nan))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@by_variant
def test_without_words_or_regions_the_score_is_0_and_nothing_is_learned(direction, pooling):
    full = drawn(3, garbage=0.0)
    empty = tuple(jax.tree.map(np.zeros_like, tree) for tree in full)
    for some in (empty, (empty[0], full[1]), (full[0], empty[1])):
        for array in jax.tree.leaves(compiled(direction, pooling)(*some, SLOPE)):
            np.testing.assert_array_equal(array, 0)


@pytest.mark.parametrize("direction", ["t-i", "i-t"])
def test_a_pair_of_its_own_has_the_score_that_it_has_among_others(direction):
    rows, columns = drawn(2, texts=3, photos=3)
    score = StackedCrossAttention(direction)

    def both(rows, columns):
        return score.paired(rows, columns), jnp.diagonal(score(rows, columns))

    found = jax.jit(both, compiler_options=QUICK_TO_COMPILE)(rows, columns)
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["t-i", "i-t"])
def test_the_hardest_negatives_of_a_batch_are_those_of_the_formula(direction):
    """VSE++'s loss of SCAN's scores, summed; tiles that do not divide the batch."""
    rows, columns = drawn(5, texts=6, photos=6)
    scores, leaves = scan_scores(rows, columns, direction=direction)
    keys, weights = -np.ones((6, 1), np.int32), np.ones(6, np.float32)
    total, slope = looped(scores.detach().numpy(), HardestHinge(0.2), keys, weights)
    wanted = torch.autograd.grad(scores, leaves, torch.tensor(slope))

    def loss(words, regions):
        return pair_term(
            {**rows, "words": words},
            {**columns, "regions": regions},
            loss=HardestHinge(0.2),
            score=StackedCrossAttention(direction),
            tile=(4, 4),
        ).total

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), compiler_options=QUICK_TO_COMPILE)
    found, gradients = step(rows["words"], columns["regions"])
    assert found == pytest.approx(total, rel=1e-5)
    for got, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(got, np.nan_to_num(want.numpy()), rtol=1e-4, atol=1e-5)


def test_texts_of_like_length_are_scored_together_and_none_is_lost():
    rng = np.random.default_rng(0)
    length = rng.integers(0, 101, 50)
    mask = np.arange(100) < length[:, None]
    rows = {"words": rng.normal(size=(50, 100, 2)), "mask": mask}
    seen = []
    for numbers, part in StackedCrossAttention().alike(rows):
        assert part["words"].shape[1] in (16, 32, 64, 100)
        assert (part["mask"].sum(1) == length[numbers]).all()
        np.testing.assert_array_equal(
            part["words"], rows["words"][numbers][:, : part["mask"].shape[1]]
        )
        seen += list(numbers)
    assert sorted(seen) == list(range(50))


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="direction='i2t'"):
        StackedCrossAttention("i2t")
    with pytest.raises(ValueError, match="pooling='mean'"):
        StackedCrossAttention(pooling="mean")
