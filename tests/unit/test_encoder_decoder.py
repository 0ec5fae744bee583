"""What the encoder-decoder promises whatever weights it holds."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from mmjax.models.encoder_decoder import EncoderDecoder
from mmjax.models.presets import t5_v1_1

SMALL = t5_v1_1(
    layers=2, width=16, heads=2, head_dim=6, feed_forward=20, vocab_size=50, dropout=0.3
)
MODEL = EncoderDecoder(SMALL)


def inputs():
    rng = np.random.default_rng(0)
    source, target = (rng.integers(0, 50, (3, n)).astype(np.int32) for n in (8, 6))
    return (
        source,
        np.arange(8) < np.array([8, 5, 1])[:, None],
        target,
        np.arange(6) < np.array([2, 6, 4])[:, None],
    )


@functools.cache
def parameters():
    return nn.unbox(jax.jit(MODEL.init)(jax.random.key(0), *inputs()))["params"]


@functools.partial(jax.jit, static_argnames="train")
def logits(params, *inputs, seed=0, train=False):
    rngs = {"dropout": jax.random.key(seed)}
    return MODEL.apply({"params": params}, *inputs, train=train, rngs=rngs)


def test_no_place_of_the_target_sees_a_later_one_or_the_sources_padding():
    source, source_mask, target, target_mask = inputs()
    params = parameters()
    out = logits(params, source, source_mask, target, target_mask)
    assert out.shape == (3, 6, 50) and out.dtype == np.float32
    later = target.copy()
    later[:, 3:] = 7
    other = logits(params, np.where(source_mask, source, 9), source_mask, later, target_mask)
    np.testing.assert_array_equal(out[:, :3], other[:, :3])
    assert not np.array_equal(out[:, 3:], other[:, 3:])
    read = np.where(np.arange(8) == 0, 9, source)
    assert not np.allclose(logits(params, read, source_mask, target, target_mask), out)


def test_dropout_acts_in_training_only_and_follows_its_key():
    params, given = parameters(), inputs()
    still = logits(params, *given)
    np.testing.assert_array_equal(still, logits(params, *given, seed=1))
    dropped = logits(params, *given, seed=1, train=True)
    np.testing.assert_array_equal(dropped, logits(params, *given, seed=1, train=True))
    assert not np.allclose(dropped, logits(params, *given, seed=2, train=True))
    assert not np.allclose(dropped, still)


def test_first_logits_are_moderate_though_nothing_scales_the_attention():
    """The query's initial weights make up for it (Raffel et al. 2020)."""
    query = parameters()["encoder"]["layers"]["attention"]["query"]["kernel"]
    # Redrawn beyond two standard deviations: 0.88 of the normal one.
    np.testing.assert_allclose(np.std(query), 0.88 * (16 * 6) ** -0.5, rtol=0.1)


@pytest.mark.parametrize(
    ("side", "change", "message"),
    [
        ("decoder", {"cross_attention": None}, "needs a cross_attention"),
        ("encoder", {"vocab_size": 51}, "differ in vocab_size"),
        ("encoder", {"dtype": "bfloat16"}, "differ in dtype"),
    ],
)
def test_two_halves_that_do_not_fit_are_refused(side, change, message):
    half = dataclasses.replace(getattr(SMALL, side), **change)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **{side: half})
