"""What every family promises of its folders: written and read back the same, or words."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from mmjax.errors import UserError
from mmjax.models import presets
from mmjax.models.clip import Clip, ClipConfig
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from mmjax.pretrained import export_transformer, load_folder, load_transformer, transformer_config

SIZES = {"layers": 2, "width": 8, "heads": 2, "feed_forward": 12}
TEXT = SIZES | {"vocab_size": 20, "max_positions": 6}
PHOTO = SIZES | {"image_size": 8, "patch_size": 4}
T5 = SIZES | {"vocab_size": 20, "head_dim": 3, "decoder_layers": 1}
CLIP = {"text": presets.clip_text(**TEXT), "image": presets.clip_vision(**PHOTO)}

MODELS = {
    "bert": ("bert", presets.bert(**TEXT)),
    "albert": ("albert", presets.albert(**TEXT, embedding_width=6)),
    "gpt2": ("gpt2", presets.gpt2(**TEXT)),
    "t5": ("t5", presets.t5(**T5)),
    "t5 1.1": ("t5", presets.t5_v1_1(**T5)),
    "mt5": ("mt5", presets.t5_v1_1(**T5)),
    "vit": ("vit", presets.vit(**PHOTO)),
    "clip": ("clip", ClipConfig(**CLIP, joint_dim=5)),
    "clip text": ("clip_text_model", CLIP["text"]),
    "clip vision": ("clip_vision_model", CLIP["image"]),
}
IDS, MASK = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), bool)
PIXELS = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
INPUTS = {
    TransformerConfig: (Transformer, (IDS, MASK)),
    EncoderDecoderConfig: (EncoderDecoder, (IDS, MASK, IDS, MASK)),
    VisionTransformerConfig: (VisionTransformer, (PIXELS,)),
    ClipConfig: (Clip, (IDS, MASK, PIXELS)),
}


def shapes(config):
    module, inputs = INPUTS[type(config)]
    boxed = jax.eval_shape(module(config).init, jax.random.key(0), *inputs)
    return nn.unbox(boxed)["params"]


def random_params(config):
    """Values for every parameter; 0 in the rows that fill up the vocabulary."""
    rng = np.random.default_rng(0)
    rows = getattr(config, "vocab_size", None)

    def draw(shape):
        x = rng.normal(size=shape.shape).astype(np.float32)
        if shape.shape[:1] == (128,):
            x[rows:] = 0
        return x

    return jax.tree.map(draw, shapes(config))


def write(name, folder):
    model_type, config = MODELS[name]
    params = random_params(config)
    export_transformer(config, params, folder, model_type)
    return config, params


@pytest.mark.parametrize("name", MODELS)
def test_what_is_exported_is_read_back_the_same(name, tmp_path):
    config, params = write(name, tmp_path)
    folder = load_folder(tmp_path)
    assert transformer_config(folder, type(config)) == config
    found, report = load_transformer(folder, shapes(config), type(config))
    assert not report.initialised and not report.left_over
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("name", MODELS)
def test_a_missing_or_senseless_key_is_named_or_has_the_familys_default(name, tmp_path):
    config, _ = write(name, tmp_path)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    refused = 0
    for key in sorted(whole.keys() - {"architectures", "model_type"}):
        for value in (None, "wide", -1, [], 1 << 40):
            changed = {k: v for k, v in whole.items() if k != key}
            file.write_text(json.dumps(changed if value is None else changed | {key: value}))
            try:
                transformer_config(load_folder(tmp_path), type(config))
            except UserError as error:
                refused += 1
                # CLIP's default, in place of what is missing, may not fit the other sizes.
                unfit = value is None and "divide" in str(error)
                assert key in str(error) or unfit, (key, value)
    assert refused > 10
    file.write_text(json.dumps(whole | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="model_type is 'roberta'; supported: "):
        transformer_config(load_folder(tmp_path), type(config))


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_that_lacks_a_layer_or_has_another_shape_is_refused(name, tmp_path):
    config, _ = write(name, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    last = [n for n in tensors if re.search(r"(encoder\.layers?|h|block)\.1\.", n)]
    if name != "albert":  # its layers are one
        save_file({n: t for n, t in tensors.items() if n not in last}, file)
        with pytest.raises(UserError, match="1 of 2 layers of "):
            load_transformer(load_folder(tmp_path), shapes(config), type(config))
    wide = next(n for n, t in tensors.items() if t.ndim == 2)
    save_file(tensors | {wide: np.zeros((3, 3), np.float32)}, file)
    with pytest.raises(UserError, match=rf"{wide} has shape \(3, 3\)"):
        load_transformer(load_folder(tmp_path), shapes(config), type(config))


def test_a_folder_of_both_towers_gives_each(tmp_path):
    config, params = write("clip", tmp_path)
    folder = load_folder(tmp_path)
    for tower, part in (("text_tower", config.text), ("image_tower", config.image)):
        assert transformer_config(folder, type(part)) == part
        found, report = load_transformer(folder, shapes(part), type(part))
        assert not report.initialised and report.left_over
        jax.tree.map(np.testing.assert_array_equal, found, params[tower])


def test_a_head_of_its_own_is_seen_whatever_the_config_says(tmp_path):
    """Folders that `transformers` 5 wrote say that every T5's head is tied."""
    config, _ = write("mt5", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
    assert transformer_config(load_folder(tmp_path), EncoderDecoderConfig) == config
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["shared.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert transformer_config(load_folder(tmp_path), EncoderDecoderConfig).tied_head


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups is 2; supported: 1"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
        ("gpt2", {"embd_pdrop": 0.5}, "embd_pdrop is 0.5; supported: 0.1"),
        ("gpt2", {"activation_function": "mish"}, "activation_function is 'mish'"),
        ("t5", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
        ("t5", {"is_encoder_decoder": False}, "is_encoder_decoder is False"),
        ("vit", {"qkv_bias": False}, "qkv_bias is False; supported: True"),
        ("vit", {"patch_size": 3}, "do not divide into patches of 3"),
        ("clip vision", {"num_channels": 1}, "num_channels is 1; supported: 3"),
    ],
)
def test_a_kind_that_is_not_supported_is_refused(name, change, message, tmp_path):
    config, _ = write(name, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        transformer_config(load_folder(tmp_path), type(config))


@pytest.mark.parametrize(
    ("name", "model_type", "change"),
    [
        ("bert", "gpt2", {}),
        ("gpt2", "bert", {}),
        ("bert", "t5", {}),
        ("bert", "bart", {}),
        ("bert", "bert", {"norm_first": True}),
        ("gpt2", "gpt2", {"position": None}),
    ],
)
def test_a_model_that_the_format_has_no_word_for_is_not_exported(
    name, model_type, change, tmp_path
):
    config = dataclasses.replace(MODELS[name][1], **change)
    with pytest.raises(UserError, match=f"no word for.*'{model_type}'|'{model_type}'.*no word for"):
        export_transformer(config, random_params(config), tmp_path / "out", model_type)
    assert not (tmp_path / "out").exists()


def test_how_a_run_computes_does_not_hinder_an_export(tmp_path):
    config = dataclasses.replace(MODELS["bert"][1], dtype="bfloat16", unroll=2, remat="full")
    export_transformer(config, random_params(config), tmp_path, "bert")
    assert transformer_config(load_folder(tmp_path)) == MODELS["bert"][1]
