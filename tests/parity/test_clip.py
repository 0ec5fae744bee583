"""CLIP's towers give what `transformers` gives from the same folder, and go back into one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from mmjax.models.clip import ClipConfig
from mmjax.models.transformer import TransformerConfig
from mmjax.models.vision_transformer import VisionTransformerConfig
from tests.parity.oracle import (
    apply,
    assert_exports,
    assert_near_in_bfloat16,
    load,
    random_model,
    texts,
    to_torch,
)

TEXT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 95,
    "eos_token_id": 96,
    "pad_token_id": 96,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 24,
    "patch_size": 8,
}
SMALL = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=20)
# As the CLIPs of others than OpenAI.
EXACT = CLIPConfig(
    text_config=TEXT | {"hidden_act": "gelu"}, vision_config=VISION | {"hidden_act": "gelu"}
)


def batch(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, mask = texts(95, seed)
    # A text ends with its end token, and is filled up with the same.
    ends = np.maximum(mask.sum(axis=1) - 1, 0)
    ids[np.arange(ids.shape[1]) >= ends[:, None]] = 96
    pixels = np.random.default_rng(seed).normal(size=(3, 24, 24, 3))
    return ids, mask, pixels.astype(np.float32)


def outputs(theirs: torch.nn.Module, ids, mask, pixels) -> tuple[np.ndarray, ...]:
    ids, mask, pixels = to_torch(ids, mask, pixels.transpose(0, 3, 1, 2))
    with torch.no_grad():
        out = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    return out.text_embeds.numpy(), out.image_embeds.numpy(), out.logits_per_text.numpy()


def test_embeddings_and_export(tmp_path):
    theirs = random_model(CLIPModel, SMALL, 0, tmp_path / "theirs")
    inputs = batch(0)
    text, image, scores = outputs(theirs, *inputs)
    model, params = load(tmp_path / "theirs", ClipConfig, *inputs)
    actual = apply(model, params, *inputs)
    np.testing.assert_allclose(actual["text"], text, atol=1e-5)
    np.testing.assert_allclose(actual["image"], image, atol=1e-5)
    ours = actual["text"] @ actual["image"].T * actual["scale"]
    np.testing.assert_allclose(ours, scores, atol=1e-4)
    again = assert_exports(model, params, "clip", tmp_path / "theirs", tmp_path / "ours", CLIPModel)
    for a, b in zip(outputs(again, *inputs), (text, image, scores), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16(tmp_path):
    theirs = random_model(CLIPModel, SMALL, 1, tmp_path)
    inputs = batch(1)
    text, image, _ = outputs(theirs, *inputs)
    model, params = load(tmp_path, ClipConfig, *inputs, dtype="bfloat16")
    actual = apply(model, params, *inputs)
    assert_near_in_bfloat16(actual["text"], text, layers=2)
    assert_near_in_bfloat16(actual["image"], image, layers=2)


@pytest.mark.parametrize("alone", [False, True])
def test_each_tower_is_read_from_a_folder_of_both_or_of_its_own(alone, tmp_path):
    both = random_model(CLIPModel, EXACT, 2, tmp_path)
    ids, mask, pixels = batch(2)
    with torch.no_grad():
        text = both.text_model(*to_torch(ids, mask)).last_hidden_state.numpy()
        image = both.vision_model(to_torch(pixels.transpose(0, 3, 1, 2))[0]).pooler_output.numpy()
    folders = {"text": tmp_path, "image": tmp_path}
    if alone:
        folders = {"text": tmp_path / "text", "image": tmp_path / "image"}
        both.text_model.save_pretrained(folders["text"])
        both.vision_model.save_pretrained(folders["image"])
    model, params = load(folders["text"], TransformerConfig, ids, mask)
    np.testing.assert_allclose(apply(model, params, ids, mask)[mask], text[mask], atol=1e-5)
    model, params = load(folders["image"], VisionTransformerConfig, pixels)
    np.testing.assert_allclose(apply(model, params, pixels)[:, 0], image, atol=1e-5)
