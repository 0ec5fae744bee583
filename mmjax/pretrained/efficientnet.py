"""EfficientNet's folders: Hugging Face's (`model_type` "efficientnet")."""

from __future__ import annotations

import re
from typing import Any

from mmjax.errors import UserError
from mmjax.models.efficientnet import STEM_WIDTH, TOP_WIDTH, EfficientNetConfig, Stage
from mmjax.pretrained.config_keys import number
from mmjax.pretrained.family import Entry, Family
from mmjax.pretrained.limits import MAX_DEPTH, MAX_STAGES, MAX_WIDTH, size, sizes

MAX_KERNEL, MAX_EXPANSION, MAX_COEFFICIENT = 31, 64, 64.0

# One value per stage here; the stage's field and the format's key.
STAGE_KEYS = {
    "depth": ("num_block_repeats", MAX_DEPTH),
    "kernel": ("kernel_sizes", MAX_KERNEL),
    "stride": ("strides", 2),
    "expansion": ("expand_ratios", MAX_EXPANSION),
    "width": ("out_channels", MAX_WIDTH),
}


def efficientnet_entries(config: EfficientNetConfig) -> tuple[Entry, ...]:
    """Where each variable is found in a folder, under Hugging Face's names."""
    entries = _conv_norm("stem", "embeddings.convolution", "embeddings.batchnorm")
    entries += _conv_norm("top", "encoder.top_conv", "encoder.top_bn")
    for i, (stage, depth, first) in enumerate(
        zip(config.stages, config.depths, config.firsts, strict=True), 1
    ):
        entries += _block(f"stage{i}_first", f"encoder.blocks.{first}", stage, 0)
        if depth > 1:
            # Blocks are numbered through: the next stage's follow in number.
            entries += _block(f"stage{i}_rest", "encoder.blocks.{layer}", stage, first + 1)
    return tuple(entries)


def canonical(name: str) -> str | None:
    """A tensor's name as in a bare EfficientNetModel; None for what holds no weights."""
    if name.endswith(".num_batches_tracked"):
        return None
    return re.sub(r"^efficientnet\.", "", name)


def _block(path: str, name: str, stage: Stage, first: int) -> list[Entry]:
    parts = {
        "expand": ("expansion.expand_conv", "expansion.expand_bn"),
        "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
        "project": ("projection.project_conv", "projection.project_bn"),
    }
    if stage.expansion == 1:
        del parts["expand"]
    entries = []
    for part, (convolution, norm) in parts.items():
        names = (f"{name}.{convolution}", f"{name}.{norm}")
        entries += _conv_norm(f"{path}/{part}", *names, first, depthwise=part == "depthwise")
    for part in ("reduce", "expand"):
        ours, theirs = f"params/{path}/squeeze_excite/{part}", f"{name}.squeeze_excite.{part}"
        kernel = "out in one one -> in out"
        entries.append(Entry(f"{ours}/kernel", f"{theirs}.weight", kernel, first, numbered_on=True))
        entries.append(
            Entry(f"{ours}/bias", f"{theirs}.bias", "out -> out", first, numbered_on=True)
        )
    return entries


def _conv_norm(
    path: str, convolution: str, norm: str, first: int = 0, depthwise: bool = False
) -> list[Entry]:
    kernel = "out in height width -> height width in out"
    if depthwise:
        kernel = "channels one height width -> height width channels"
    vectors = {
        f"params/{path}/norm/scale": f"{norm}.weight",
        f"params/{path}/norm/bias": f"{norm}.bias",
        f"batch_stats/{path}/norm/mean": f"{norm}.running_mean",
        f"batch_stats/{path}/norm/variance": f"{norm}.running_var",
    }
    return [
        Entry(f"params/{path}/kernel", f"{convolution}.weight", kernel, first, numbered_on=True),
        *(
            Entry(ours, there, "channels -> channels", first, numbered_on=True)
            for ours, there in vectors.items()
        ),
    ]


def _read_config(config: dict[str, Any]) -> EfficientNetConfig:
    if config["hidden_act"] not in ("swish", "silu"):  # two names of one function
        raise UserError(f"config.json: hidden_act is {config['hidden_act']!r}; supported: 'swish'.")
    for key, only in (("pooling_type", "mean"), ("num_channels", 3)):
        if config[key] != only:
            raise UserError(f"config.json: {key} is {config[key]!r}; supported: {only!r}.")
    lists = {field: sizes(config, key, high) for field, (key, high) in STAGE_KEYS.items()}
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError(f"{', '.join(key for key, _ in STAGE_KEYS.values())} differ in length")
    padded = config["depthwise_padding"]
    if not isinstance(padded, list) or len(padded) > MAX_STAGES:
        raise ValueError(f"depthwise_padding is {padded!r}, not a list of a few blocks' numbers")
    stages = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    described = EfficientNetConfig(
        width_coefficient=number(config, "width_coefficient", below=MAX_COEFFICIENT),
        depth_coefficient=number(config, "depth_coefficient", below=MAX_COEFFICIENT),
        width_divisor=size(config["depth_divisor"], "depth_divisor", MAX_WIDTH),
        stages=tuple(Stage(**stage) for stage in stages),
        squeeze_ratio=number(config, "squeeze_expansion_ratio", below=1.1),
        symmetric=tuple(size(n, "depthwise_padding", MAX_DEPTH, low=0) for n in padded),
        drop_connect=number(config, "drop_connect_rate"),
        batch_norm_epsilon=number(config, "batch_norm_eps"),
        batch_norm_momentum=_other_share(number(config, "batch_norm_momentum")),
    )
    _check_widths(config, described)
    return described


def _check_widths(config: dict[str, Any], described: EfficientNetConfig) -> None:
    """Raises ValueError for what the format could say but no network does."""
    inputs = [STEM_WIDTH, *(stage.width for stage in described.stages[:-1])]
    for key, only in (("in_channels", inputs), ("hidden_dim", described.width)):
        if config[key] != only:
            raise ValueError(f"{key} is {config[key]!r}, but the other sizes give {only}")
    widest = max(described.scaled(stage.width) * stage.expansion for stage in described.stages)
    size(max(widest, described.width), "the widest layer", MAX_WIDTH)
    size(sum(described.depths), "the number of blocks", MAX_DEPTH)


def _describe(config: EfficientNetConfig) -> dict[str, Any]:
    inputs = [STEM_WIDTH, *(stage.width for stage in config.stages[:-1])]
    stages = {
        key: [getattr(stage, field) for stage in config.stages]
        for field, (key, _) in STAGE_KEYS.items()
    }
    return {
        "architectures": ["EfficientNetModel"],
        "model_type": "efficientnet",
        "num_channels": 3,
        "width_coefficient": config.width_coefficient,
        "depth_coefficient": config.depth_coefficient,
        "depth_divisor": config.width_divisor,
        "in_channels": inputs,
        **stages,
        "depthwise_padding": list(config.symmetric),
        "squeeze_expansion_ratio": config.squeeze_ratio,
        "hidden_act": "swish",
        "hidden_dim": config.scaled(TOP_WIDTH),
        "pooling_type": "mean",
        "batch_norm_eps": config.batch_norm_epsilon,
        "batch_norm_momentum": _other_share(config.batch_norm_momentum),
        "drop_connect_rate": config.drop_connect,
    }


def _other_share(momentum: float) -> float:
    """The format means the share of the old statistics, as TensorFlow does; here the newest's.

    (Transformers takes the number as PyTorch's, which is the newest's, when it trains.)
    """
    return round(1 - momentum, 9)


EFFICIENTNET = Family(
    kind=EfficientNetConfig,
    config=_read_config,
    describe=_describe,
    entries=efficientnet_entries,
    canonical=canonical,
)
