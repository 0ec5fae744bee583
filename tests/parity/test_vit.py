"""The vision transformer gives what `transformers` gives from the same folder, and goes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from mmjax.models.vision_transformer import VisionTransformerConfig
from tests.parity.oracle import (
    apply,
    assert_exports,
    assert_near_in_bfloat16,
    load,
    random_model,
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 24,
    "patch_size": 8,
}
SMALL = ViTConfig(**SIZES)
OTHER = ViTConfig(**SIZES | {"patch_size": 4, "hidden_act": "gelu_new", "layer_norm_eps": 1e-2})


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 24, 24, 3)).astype(np.float32)


def hidden(theirs: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        x = torch.tensor(x.transpose(0, 3, 1, 2))
        return theirs.base_model(pixel_values=x).last_hidden_state.numpy()


@pytest.mark.parametrize(
    ("head", "config"), [(ViTModel, SMALL), (ViTForImageClassification, OTHER)]
)
def test_hidden_states(head, config, tmp_path):
    theirs = random_model(head, config, 0, tmp_path)
    x = pixels(0)
    model, params = load(tmp_path, VisionTransformerConfig, x)
    np.testing.assert_allclose(apply(model, params, x), hidden(theirs, x), atol=1e-5)


def test_bfloat16(tmp_path):
    theirs = random_model(ViTModel, SMALL, 1, tmp_path)
    x = pixels(1)
    model, params = load(tmp_path, VisionTransformerConfig, x, dtype="bfloat16")
    assert_near_in_bfloat16(apply(model, params, x), hidden(theirs, x), layers=2)


def test_export(tmp_path):
    theirs = random_model(ViTModel, SMALL, 2, tmp_path / "theirs")
    x = pixels(2)
    model, params = load(tmp_path / "theirs", VisionTransformerConfig, x)
    again = assert_exports(model, params, "vit", tmp_path / "theirs", tmp_path / "ours", ViTModel)
    np.testing.assert_array_equal(hidden(again, x), hidden(theirs, x))
