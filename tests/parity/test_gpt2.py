"""GPT-2 gives what `transformers` gives from the same folder, and goes back into one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mmjax.models.transformer import TransformerConfig
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
}


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
    theirs = random_model(GPT2LMHeadModel, KINDS[kind], 0, tmp_path / "theirs")
    ids, mask = texts(97, 0)
    model, params = load(tmp_path / "theirs", TransformerConfig, ids, mask)
    expected = logits(theirs, ids, mask).detach().numpy()
    actual = jax.jit(our_logits, static_argnums=0)(model, params, ids, mask)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual[mask], expected[mask], rtol=1e-5, atol=1e-5)
    again = assert_exports(
        model, params, "gpt2", tmp_path / "theirs", tmp_path / "ours", GPT2LMHeadModel
    )
    np.testing.assert_array_equal(logits(again, ids, mask).detach().numpy(), expected)


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
