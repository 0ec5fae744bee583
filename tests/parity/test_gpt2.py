"""GPT-2 and GPT give what `transformers` gives from the same folder, and go back into one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.presets import gpt2
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained import export_transformer
from tests.parity.oracle import (
    assert_exports,
    assert_gradients_equal,
    assert_near_in_bfloat16,
    load,
    random_model,
    texts,
    to_torch,
)

SIZES = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 16,
    "bos_token_id": 96,
    "eos_token_id": 96,
}
KINDS = {
    "as released": GPT2Config(**SIZES),
    "other parts": GPT2Config(**SIZES, n_inner=24, activation_function="relu"),
    "gpt": OpenAIGPTConfig(**SIZES),
}
CLASSES = {"gpt2": GPT2LMHeadModel, "openai-gpt": OpenAIGPTLMHeadModel}


def types(ids: np.ndarray) -> np.ndarray:
    """Token types, which GPT-2 looks up among its words."""
    return np.random.default_rng(1).integers(1, 97, ids.shape).astype(np.int32)


def logits(theirs: torch.nn.Module, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    ids, mask, kinds = to_torch(ids, mask, types(ids))
    return theirs(input_ids=ids, attention_mask=mask, token_type_ids=kinds).logits


def our_logits(model, params, ids, mask):
    def both(module, ids, mask, kinds):
        return module.logits(module(ids, mask, kinds))

    return model.apply({"params": params}, ids, mask, types(ids), method=both)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_export(kind, tmp_path):
    name = KINDS[kind].model_type
    theirs = random_model(CLASSES[name], KINDS[kind], 0, tmp_path / "theirs")
    ids, mask = texts(97, 0)
    model, params = load(tmp_path / "theirs", TransformerConfig, ids, mask)
    expected = logits(theirs, ids, mask).detach().numpy()
    actual = jax.jit(our_logits, static_argnums=0)(model, params, ids, mask)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual[mask], expected[mask], rtol=1e-5, atol=1e-5)
    again = assert_exports(
        model, params, name, tmp_path / "theirs", tmp_path / "ours", CLASSES[name]
    )
    np.testing.assert_array_equal(logits(again, ids, mask).detach().numpy(), expected)


def test_a_decoder_of_dialogues_is_exported_with_its_speakers(tmp_path):
    """What reads the images has no place there; the rest is GPT-2."""
    config = DecoderConfig(gpt2(layers=2, width=32, heads=4, vocab_size=97), image_features=6)
    ids, mask = texts(97, 4)
    batch = {"text": {"ids": ids, "mask": mask}, "speaker": {"ids": types(ids), "mask": mask}}
    batch["image_at"] = {"ids": np.zeros_like(ids)}
    batch["image_features"], batch["has_image"] = np.zeros((4, 1, 1, 6)), np.zeros((4, 1), bool)
    model = Decoder(config)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    rng = np.random.default_rng(5)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), nn.unbox(shapes)
    )["params"]
    out = jax.jit(functools.partial(model.apply, method=Decoder.hidden))({"params": params}, batch)
    export_transformer(config.text, params["text"], tmp_path, "gpt2")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    words = params["text"]["embeddings"]["word"]["embedding"][:97]
    actual = np.einsum("bld,wd->blw", out, words)
    expected = logits(theirs, ids, mask).detach().numpy()
    np.testing.assert_allclose(actual[mask], expected[mask], rtol=1e-4, atol=1e-4)


def test_bfloat16(tmp_path):
    theirs = random_model(GPT2LMHeadModel, KINDS["as released"], 1, tmp_path)
    ids, mask = texts(97, 1)
    model, params = load(tmp_path, TransformerConfig, ids, mask, dtype="bfloat16")
    actual = np.asarray(jax.jit(our_logits, static_argnums=0)(model, params, ids, mask))
    expected = logits(theirs, ids, mask).detach().numpy()
    assert_near_in_bfloat16(actual[mask], expected[mask], layers=2)


def test_gradients(tmp_path):
    theirs = random_model(GPT2LMHeadModel, KINDS["as released"], 2, tmp_path / "theirs")
    ids, mask = texts(97, 2)
    weight = np.random.default_rng(3).normal(size=(*ids.shape, 97)).astype(np.float32)
    weight *= mask[..., None]
    (logits(theirs, ids, mask) * torch.tensor(weight)).sum().backward()
    model, params = load(tmp_path / "theirs", TransformerConfig, ids, mask)

    def loss(params):
        return jnp.sum(our_logits(model, params, ids, mask) * weight)

    ours = jax.jit(jax.grad(loss))(params)
    assert_gradients_equal(theirs, ours, model.config, "gpt2", tmp_path / "ours")
