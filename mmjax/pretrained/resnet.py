"""ResNet's folders: Hugging Face's (`model_type` "resnet"), and torchvision's tensor names.

A folder with torchvision's names says what it holds as timm's do, by `architecture` ("resnet50"),
or with Hugging Face's keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.errors import UserError
from mmjax.models.presets import IMAGE_PRESETS
from mmjax.models.resnet import ResNetConfig
from mmjax.pretrained.family import Entry
from mmjax.pretrained.folder import PretrainedFolder
from mmjax.pretrained.loading import SHOWN, LoadReport, load_entries, read_config
from mmjax.pretrained.writing import to_tensors, write_folder

ARCHITECTURES = {f"resnet{depth}": f"resnet-{depth}" for depth in (18, 34, 50, 101, 152)}

# Far beyond any ResNet: a config.json is not to make a program build without end.
MAX_STAGES, MAX_DEPTH, MAX_WIDTH = 8, 512, 1 << 16


def resnet_config(folder: PretrainedFolder) -> ResNetConfig:
    """The ResNet that the folder's config.json describes.

    Raises UserError for another kind of model, for a ResNet that is not supported, and for a key
    that is missing or does not fit.
    """
    return read_config(folder, _describe)


def load_resnet(
    folder: PretrainedFolder, config: ResNetConfig, target: Mapping[str, Any]
) -> tuple[dict[str, Any], LoadReport]:
    """The folder's weights as the variables of one ResNet.

    Args:
        folder: what `load_folder` gave.
        config: of the ResNet that is to take them.
        target: {"params": ..., "batch_stats": ...}, trees of jax.ShapeDtypeStruct; where one has a
            sharding its array is made with it, each process reading its own slices only.

    Returns:
        The tree of jax.Arrays in the target's dtypes, and the report. A classifier is left over.

    Raises UserError, naming the parameter, when a shape does not fit or when the folder has more or
    fewer blocks: a part of a ResNet is no use.
    """
    variables, report = load_entries(folder, resnet_entries(config), canonical, target)
    advice = "Build the model from this folder's config.json, or name a complete folder."
    if report.initialised:
        raise UserError(f"{folder.path} lacks {_some(report.initialised)}. {advice}")
    trunk = ("embedder.", "encoder.")
    more = [n for n in report.left_over if (canonical(n) or "").startswith(trunk)]
    if more:
        raise UserError(f"{folder.path} has blocks that the model lacks: {_some(more)}. {advice}")
    return variables, report


def export_resnet(config: ResNetConfig, variables: Mapping[str, Any], folder: str | Path) -> None:
    """Writes a folder that `transformers.ResNetModel.from_pretrained` reads.

    Args:
        variables: {"params": ..., "batch_stats": ...} of one ResNet, whole arrays.

    Raises UserError for the small stem, which that format has no word for, and when the folder
    cannot be written.
    """
    if config.stem != "large":
        raise UserError(
            f"a ResNet with stem={config.stem!r} has no form in Hugging Face's format: train one "
            "with stem='large' to export it."
        )
    trunk = {name: variables[name] for name in ("params", "batch_stats")}
    tensors = to_tensors(resnet_entries(config), trunk)
    counters = [n.replace("running_mean", "num_batches_tracked") for n in tensors if "_mean" in n]
    tensors |= {name: np.zeros((), np.int64) for name in counters}
    write_folder(Path(folder), _hugging_face_config(config), tensors)


def resnet_entries(config: ResNetConfig) -> tuple[Entry, ...]:
    """Where each variable is found in a folder, under Hugging Face's names."""
    entries = _conv_norm("stem", "embedder.embedder")
    convolutions = 2 if config.block == "basic" else 3
    for i, depth in enumerate(config.depths):
        stage, layers = f"stage{i + 1}", f"encoder.stages.{i}.layers"
        if config.has_shortcut(i):
            entries += _conv_norm(f"{stage}/first/shortcut", f"{layers}.0.shortcut")
        for j in range(convolutions):
            entries += _conv_norm(f"{stage}/first/conv{j + 1}", f"{layers}.0.layer.{j}")
            if depth > 1:
                rest = f"{layers}.{{layer}}.layer.{j}"
                entries += _conv_norm(f"{stage}/rest/conv{j + 1}", rest, first=1)
    return tuple(entries)


def canonical(name: str) -> str | None:
    """A tensor's name as in a bare Hugging Face ResNetModel; None for what holds no weights."""
    if name.endswith(".num_batches_tracked"):
        return None
    name = re.sub(r"^resnet\.", "", name)
    # From here on: torchvision.
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    found = re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", name)
    if found is None:
        return name
    stage, block, kind, number, rest = found.groups()
    block = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if kind == "downsample.":
        part = {"0": "convolution", "1": "normalization"}.get(number, number)
        return f"{block}.shortcut.{part}.{rest}"
    part = {"conv": "convolution", "bn": "normalization"}[kind]
    return f"{block}.layer.{int(number) - 1}.{part}.{rest}"


def _conv_norm(path: str, name: str, first: int = 0) -> list[Entry]:
    norm = f"{name}.normalization"
    vectors = {
        f"params/{path}/norm/scale": f"{norm}.weight",
        f"params/{path}/norm/bias": f"{norm}.bias",
        f"batch_stats/{path}/norm/mean": f"{norm}.running_mean",
        f"batch_stats/{path}/norm/variance": f"{norm}.running_var",
    }
    kernel = "out in height width -> height width in out"
    return [
        Entry(f"params/{path}/kernel", f"{name}.convolution.weight", kernel, first),
        *(Entry(ours, there, "channels -> channels", first) for ours, there in vectors.items()),
    ]


def _describe(config: dict[str, Any]) -> ResNetConfig:
    if "model_type" not in config and config.get("architecture") in ARCHITECTURES:
        return IMAGE_PRESETS[ARCHITECTURES[config["architecture"]]]
    if config.get("model_type") != "resnet":
        raise UserError(
            f"config.json: model_type is {config.get('model_type')!r} and architecture "
            f"{config.get('architecture')!r}; supported: model_type 'resnet', or one of the "
            f"architectures {', '.join(ARCHITECTURES)}."
        )
    for key, only in (
        ("hidden_act", "relu"),
        ("downsample_in_bottleneck", False),
        ("num_channels", 3),
    ):
        # downsample_in_bottleneck is younger than the format: without it the stride is in the 3x3.
        value = config.get(key, False) if key == "downsample_in_bottleneck" else config[key]
        if value != only:
            raise UserError(f"config.json: {key} is {value!r}; supported: {only!r}.")
    if not isinstance(config["downsample_in_first_stage"], bool):
        raise ValueError("downsample_in_first_stage is neither true nor false")
    return ResNetConfig(
        depths=_sizes(config, "depths", MAX_DEPTH),
        widths=_sizes(config, "hidden_sizes", MAX_WIDTH),
        block=config["layer_type"],
        stem_width=_size(config["embedding_size"], "embedding_size", MAX_WIDTH),
        downsample_first=config["downsample_in_first_stage"],
    )


def _sizes(config: dict[str, Any], key: str, high: int) -> tuple[int, ...]:
    values = config[key]
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_STAGES:
        raise ValueError(f"{key} is {values!r}, not a list of 1 to {MAX_STAGES} numbers")
    return tuple(_size(value, key, high) for value in values)


def _size(value: Any, key: str, high: int) -> int:
    if type(value) is not int or not 1 <= value <= high:
        raise ValueError(f"{key} has {value!r}, where a whole number from 1 to {high} is needed")
    return value


def _hugging_face_config(config: ResNetConfig) -> dict[str, Any]:
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": config.stem_width,
        "hidden_sizes": list(config.widths),
        "depths": list(config.depths),
        "layer_type": config.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": config.downsample_first,
        "downsample_in_bottleneck": False,
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
