"""The vision transformer's folders (`model_type` "vit"): config keys and tensor names."""

from __future__ import annotations

import re
from typing import Any

from mmjax.models import presets
from mmjax.models.vision_transformer import VisionTransformerConfig
from mmjax.pretrained.config_keys import (
    MAX_LAYERS,
    activation_name,
    activation_of,
    number,
    refuse_unless,
    whole,
)
from mmjax.pretrained.family import Entry, Family, attention, narrowing, norm, widening

PATCH = "embed channels_in height width -> height width channels_in embed"

# The newest transformers' names of a layer's parts, and those that folders have.
RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def vit_config(config: dict[str, Any]) -> VisionTransformerConfig:
    """The vision transformer that a ViT config.json describes.

    Raises KeyError for a missing key, and UserError for a kind of ViT that is not supported.
    """
    refuse_unless(config, qkv_bias=True, num_channels=3)
    return presets.vit(
        layers=whole(config, "num_hidden_layers", MAX_LAYERS),
        width=whole(config, "hidden_size"),
        heads=whole(config, "num_attention_heads"),
        feed_forward=whole(config, "intermediate_size"),
        image_size=whole(config, "image_size"),
        patch_size=whole(config, "patch_size"),
        activation=activation_of(config, "hidden_act"),
        epsilon=number(config, "layer_norm_eps"),
        dropout=number(config, "hidden_dropout_prob"),
        attention_dropout=number(config, "attention_probs_dropout_prob"),
    )


def _describe(config: VisionTransformerConfig) -> dict[str, Any]:
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.attention.heads,
        "intermediate_size": config.feed_forward.width,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "hidden_act": activation_name(config.feed_forward.activation),
        "layer_norm_eps": config.norm.epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention.dropout,
    }


def _canonical(name: str) -> str | None:
    name = name.removeprefix("vit.")
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None:
        return name
    layer, part, leaf = found.groups()
    return f"encoder.layer.{layer}.{RENAMED.get(part, part)}.{leaf}"


def _entries(_: VisionTransformerConfig) -> tuple[Entry, ...]:
    layer, patch = "encoder.layer.{layer}", "embeddings.patch_embeddings.projection"
    of_self = f"{layer}.attention.attention"
    return (
        Entry("embeddings/class", "embeddings.cls_token", "one one embed -> embed"),
        Entry(
            "embeddings/position/table/embedding",
            "embeddings.position_embeddings",
            "one position embed -> position embed",
        ),
        Entry("embeddings/patch/kernel", f"{patch}.weight", PATCH),
        Entry("embeddings/patch/bias", f"{patch}.bias", "embed -> embed"),
        *norm("layers/attention_norm", f"{layer}.layernorm_before"),
        *attention(
            "layers/attention",
            f"{of_self}.query",
            f"{of_self}.key",
            f"{of_self}.value",
            f"{layer}.attention.output.dense",
        ),
        *norm("layers/feed_forward_norm", f"{layer}.layernorm_after"),
        *widening("layers/feed_forward/up", f"{layer}.intermediate.dense"),
        *narrowing("layers/feed_forward/down", f"{layer}.output.dense"),
        *norm("final_norm", "layernorm"),
    )


VIT = Family(VisionTransformerConfig, vit_config, _describe, _entries, _canonical)
