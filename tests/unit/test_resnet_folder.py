"""What reading and writing a ResNet's folder promises beside its numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from mmjax.errors import UserError
from mmjax.models.presets import IMAGE_PRESETS
from mmjax.models.resnet import ResNet, ResNetConfig
from mmjax.pretrained import export_image_tower, image_config, load_folder, load_image_tower

CONFIG = ResNetConfig((1, 3), (8, 12), "bottleneck", stem_width=6, downsample_first=True)


def abstract(config: ResNetConfig):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return nn.unbox(jax.eval_shape(ResNet(config).init, jax.random.key(0), images))


def random_variables(config: ResNetConfig):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract(config))


def written(folder: Path, config: ResNetConfig = CONFIG) -> Path:
    export_image_tower(config, random_variables(config), folder)
    return folder


def load(path: Path, config: ResNetConfig | None = None):
    folder = load_folder(path)
    config = config or image_config(folder)
    return load_image_tower(folder, config, abstract(config))


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_what_was_written_is_read_back_bit_for_bit(block, tmp_path):
    config = dataclasses.replace(CONFIG, block=block)
    variables, report = load(written(tmp_path, config))
    assert image_config(load_folder(tmp_path)) == config
    jax.tree.map(np.testing.assert_array_equal, variables, random_variables(config))
    assert not report.initialised and not report.left_over


def test_every_tensor_lands_where_it_belongs(tmp_path):
    tensors = load_file(written(tmp_path) / "model.safetensors")
    variables, _ = load(tmp_path)
    for i in (1, 2):
        layer = f"encoder.stages.1.layers.{i}.layer.1"
        params, stats = (
            jax.tree.map(
                lambda x, i=i: np.asarray(x)[i - 1], variables[k]["stage2"]["rest"]["conv2"]
            )
            for k in ("params", "batch_stats")
        )
        theirs = tensors[f"{layer}.convolution.weight"]
        np.testing.assert_array_equal(params["kernel"][0, 2, 1, 0], theirs[0, 1, 0, 2])
        np.testing.assert_array_equal(params["kernel"], theirs.transpose(2, 3, 1, 0))
        for name, leaf in (
            ("weight", params["norm"]["scale"]),
            ("bias", params["norm"]["bias"]),
            ("running_mean", stats["norm"]["mean"]),
            ("running_var", stats["norm"]["variance"]),
        ):
            np.testing.assert_array_equal(leaf, tensors[f"{layer}.normalization.{name}"])


def test_the_head_is_left_over_and_half_precision_becomes_float32(tmp_path):
    written(tmp_path)
    head = {"classifier.1.weight": np.zeros((3, 12), np.float32)}

    def change(tensors):
        tensors = {f"resnet.{k}": v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}
        return tensors | head

    change_tensors(tmp_path, change)
    variables, report = load(tmp_path)
    assert report.left_over == ["classifier.1.weight"]
    for leaf, full in zip(
        jax.tree.leaves(variables), jax.tree.leaves(random_variables(CONFIG)), strict=True
    ):
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, full.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'; supported as a network of images: resnet"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: 'relu'"),
        ({"downsample_in_bottleneck": True}, "downsample_in_bottleneck is True"),
        ({"num_channels": 1}, "num_channels is 1; supported: 3"),
        ({"layer_type": "wide"}, "block='wide'"),
        ({"depths": [1, 3, 1]}, "one of each per stage"),
        ({"depths": [1, 10**9]}, "depths has 1000000000, where a whole number from 1 to"),
        ({"depths": [1] * 99, "hidden_sizes": [8] * 99}, "not a list of 1 to 8 numbers"),
        ({"depths": "12"}, "depths is '12', not a list"),
        ({"embedding_size": 6.5}, "embedding_size has 6.5"),
        ({"downsample_in_first_stage": "no"}, "neither true nor false"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(change, message, tmp_path):
    file = written(tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        image_config(load_folder(tmp_path))


@pytest.mark.parametrize("key", ["depths", "hidden_sizes", "layer_type", "embedding_size"])
def test_a_missing_config_key_is_named(key, tmp_path):
    file = written(tmp_path) / "config.json"
    config = json.loads(file.read_text())
    del config[key]
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"no key '{key}'"):
        image_config(load_folder(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (1, 2)}, "more than 1 layers of batch_stats/stage2/rest"),
        ({"depths": (1, 4)}, "2 of 3 layers of batch_stats/stage2/rest"),
        ({"depths": (1, 1)}, "blocks that the model lacks: encoder.stages.1.layers.1"),
        ({"depths": (2, 3)}, "lacks batch_stats/stage1/rest"),
        ({"depths": (1,), "widths": (8,)}, "blocks that the model lacks: encoder.stages.1"),
        ({"widths": (8, 16)}, r"stage2/first/conv1/norm/mean needs \(4,\)"),
        ({"block": "basic"}, r"stage1/first/conv1/norm/mean needs \(8,\)"),
        ({"stem_width": 7}, r"stem/norm/mean needs \(7,\)"),
    ],
)
def test_another_resnet_than_the_folders_is_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(written(tmp_path), dataclasses.replace(CONFIG, **change))


def test_a_folder_without_running_statistics_is_refused(tmp_path):
    written(tmp_path)
    change_tensors(tmp_path, lambda t: {k: v for k, v in t.items() if "running_var" not in k})
    with pytest.raises(UserError, match="lacks batch_stats/stage1/first/conv1/norm/variance"):
        load(tmp_path)


def test_timms_config_names_the_network(tmp_path):
    save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    assert image_config(load_folder(tmp_path)) == IMAGE_PRESETS["resnet-50"]
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50d"}))
    with pytest.raises(UserError, match="architecture 'resnet50d'"):
        image_config(load_folder(tmp_path))


def test_a_small_stem_has_no_folder(tmp_path):
    with pytest.raises(UserError, match="stem='small' has no form"):
        written(tmp_path, dataclasses.replace(CONFIG, stem="small"))


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        written(tmp_path / "file" / "folder")
