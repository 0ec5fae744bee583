"""T5 1.0, T5 1.1 and mT5 give what `transformers` gives from the same folder, and go back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.t5.modeling_t5 import T5Attention

from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.positions import RelativePositions
from tests.parity.oracle import (
    apply,
    assert_exports,
    assert_gradients_equal,
    assert_near_in_bfloat16,
    load,
    random_model,
    texts,
    to_torch,
)

# Heads are not the width's share; distances fall into wide buckets; the decoder is deeper.
SIZES = {
    "vocab_size": 97,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}


def t5_v1_0(folder, seed):
    return random_model(T5ForConditionalGeneration, T5Config(**SIZES), seed, folder)


def t5_v1_1(folder, seed):
    config = T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return untied(random_model(T5ForConditionalGeneration, config, seed, folder), folder)


def mt5(folder, seed):
    return untied(
        random_model(MT5ForConditionalGeneration, MT5Config(**SIZES), seed, folder), folder
    )


def untied(model, folder):
    """`transformers` ties the head of every new T5; the released ones of 1.1 have their own."""
    noise = torch.randn(model.shared.weight.shape, generator=torch.Generator().manual_seed(9))
    model.lm_head.weight = torch.nn.Parameter(0.3 * noise)
    model.all_tied_weights_keys.pop("lm_head.weight")
    model.save_pretrained(folder)
    return model


KINDS = {"t5": t5_v1_0, "t5 1.1": t5_v1_1, "mt5": mt5}


def batch(seed: int) -> tuple[np.ndarray, ...]:
    source, source_mask = texts(97, seed)
    target, target_mask = texts(97, seed + 1)
    # Targets of other lengths than their sources, and all shorter.
    return source, source_mask, target[::-1, :9].copy(), target_mask[::-1, :9].copy()


def logits(theirs: torch.nn.Module, *inputs: np.ndarray) -> torch.Tensor:
    source, source_mask, target, target_mask = to_torch(*inputs)
    return theirs(
        input_ids=source,
        attention_mask=source_mask,
        decoder_input_ids=target,
        decoder_attention_mask=target_mask,
    ).logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_export(kind, tmp_path):
    theirs = KINDS[kind](tmp_path / "theirs", 0)
    inputs = batch(0)
    model, params = load(tmp_path / "theirs", EncoderDecoderConfig, *inputs)
    assert model.config.tied_head == (kind == "t5")
    real = inputs[-1]
    expected = logits(theirs, *inputs).detach().numpy()
    np.testing.assert_allclose(apply(model, params, *inputs)[real], expected[real], atol=1e-4)
    again = assert_exports(
        model, params, kind.split()[0], tmp_path / "theirs", tmp_path / "ours", type(theirs)
    )
    np.testing.assert_array_equal(logits(again, *inputs).detach().numpy(), expected)


def test_bfloat16(tmp_path):
    theirs = t5_v1_0(tmp_path, 3)
    inputs = batch(3)
    model, params = load(tmp_path, EncoderDecoderConfig, *inputs, dtype="bfloat16")
    actual = apply(model, params, *inputs)
    assert actual.dtype == np.float32
    expected = logits(theirs, *inputs).detach().numpy()
    assert_near_in_bfloat16(actual[inputs[-1]], expected[inputs[-1]], layers=5)


def test_gradients(tmp_path):
    theirs = t5_v1_0(tmp_path / "theirs", 5)
    inputs = batch(5)
    weight = np.random.default_rng(6).normal(size=(*inputs[2].shape, 97)).astype(np.float32)
    weight *= inputs[-1][..., None]
    (logits(theirs, *inputs) * torch.tensor(weight)).sum().backward()
    model, params = load(tmp_path / "theirs", EncoderDecoderConfig, *inputs)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, *inputs) * weight)

    ours = jax.jit(jax.grad(loss))(params)
    assert_gradients_equal(theirs, ours, model.config, "t5", tmp_path / "ours")


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 12), (16, 1000)])
def test_distances_fall_into_the_same_buckets(two_sided, buckets, max_distance):
    distance = np.arange(-1100, 1101)
    expected = T5Attention._relative_position_bucket(
        torch.tensor(distance), two_sided, buckets, max_distance
    )
    positions = RelativePositions(buckets, max_distance, two_sided, heads=1)
    np.testing.assert_array_equal(positions.bucket(distance), expected.numpy())
