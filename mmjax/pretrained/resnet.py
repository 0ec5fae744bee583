"""ResNet's folders: Hugging Face's (`model_type` "resnet"), and torchvision's tensor names.

A folder with torchvision's names says what it holds as timm's do, by `architecture` ("resnet50"),
or with Hugging Face's keys.
"""

from __future__ import annotations

import re
from typing import Any

from mmjax.errors import UserError
from mmjax.models.presets import IMAGE_PRESETS
from mmjax.models.resnet import ResNetConfig
from mmjax.pretrained.family import Entry, Family
from mmjax.pretrained.limits import MAX_DEPTH, MAX_WIDTH, size, sizes

ARCHITECTURES = {f"resnet{depth}": f"resnet-{depth}" for depth in (18, 34, 50, 101, 152)}


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


def _read_config(config: dict[str, Any]) -> ResNetConfig:
    if "model_type" not in config and config.get("architecture") in ARCHITECTURES:
        return IMAGE_PRESETS[ARCHITECTURES[config["architecture"]]]
    if "model_type" not in config:
        raise UserError(
            f"config.json: there is no model_type, and architecture {config.get('architecture')!r} "
            f"is none of {', '.join(ARCHITECTURES)}."
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
        depths=sizes(config, "depths", MAX_DEPTH),
        widths=sizes(config, "hidden_sizes", MAX_WIDTH),
        block=config["layer_type"],
        stem_width=size(config["embedding_size"], "embedding_size", MAX_WIDTH),
        downsample_first=config["downsample_in_first_stage"],
    )


def _describe(config: ResNetConfig) -> dict[str, Any]:
    if config.stem != "large":
        raise UserError(
            f"a ResNet with stem={config.stem!r} has no form in Hugging Face's format: train one "
            "with stem='large' to export it."
        )
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


RESNET = Family(
    kind=ResNetConfig,
    config=_read_config,
    describe=_describe,
    entries=resnet_entries,
    canonical=canonical,
)
