"""CLIP's folders: both towers (`model_type` "clip"), or one."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from mmjax.models import presets
from mmjax.models.clip import ClipConfig
from mmjax.models.transformer import TransformerConfig
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
from mmjax.pretrained.vit import PATCH

# A config.json leaves out what is as in the first CLIP (ViT-B/32); these are its values.
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}
BOTH = {"projection_dim": 512, "logit_scale_init_value": 2.6592}


def clip_config(config: dict[str, Any]) -> ClipConfig:
    """Both towers as a CLIP config.json describes them.

    Raises UserError for a kind of CLIP that is not supported.
    """
    keys = BOTH | config
    return ClipConfig(
        text=clip_text_config(config),
        image=clip_vision_config(config),
        joint_dim=whole(keys, "projection_dim"),
        log_scale=number(keys, "logit_scale_init_value", -100, 100),
    )


def clip_text_config(config: dict[str, Any]) -> TransformerConfig:
    """The text tower alone."""
    keys = TEXT | _tower(config, "text_config")
    return presets.clip_text(
        vocab_size=whole(keys, "vocab_size"),
        max_positions=whole(keys, "max_position_embeddings"),
        **_sizes(keys),
    )


def clip_vision_config(config: dict[str, Any]) -> VisionTransformerConfig:
    """The vision tower alone."""
    keys = VISION | _tower(config, "vision_config")
    refuse_unless(keys, num_channels=3)
    return presets.clip_vision(
        image_size=whole(keys, "image_size"), patch_size=whole(keys, "patch_size"), **_sizes(keys)
    )


def _tower(config: dict[str, Any], key: str) -> dict[str, Any]:
    """What a config says of one tower: under its key, or the whole when it is of that one alone."""
    if config.get("model_type") != "clip":
        return config
    # The first folders say it under another key too, which then holds.
    found: dict[str, Any] = {}
    for name in (key, f"{key}_dict"):
        keys = config.get(name)
        if not isinstance(keys, dict | None):
            raise ValueError(f"{name} is {keys!r}, where an object is needed")
        found |= keys or {}
    return found


def _sizes(keys: dict[str, Any]) -> dict[str, Any]:
    return {
        "layers": whole(keys, "num_hidden_layers", MAX_LAYERS),
        "width": whole(keys, "hidden_size"),
        "heads": whole(keys, "num_attention_heads"),
        "feed_forward": whole(keys, "intermediate_size"),
        "activation": activation_of(keys, "hidden_act"),
        "epsilon": number(keys, "layer_norm_eps"),
        "attention_dropout": number(keys, "attention_dropout"),
    }


def _describe(config: ClipConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "text_config": _describe_text(config.text) | {"projection_dim": config.joint_dim},
        "vision_config": _describe_vision(config.image) | {"projection_dim": config.joint_dim},
        "projection_dim": config.joint_dim,
        "logit_scale_init_value": config.log_scale,
    }


def _describe_text(config: TransformerConfig) -> dict[str, Any]:
    return _described_sizes(config) | {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.position.max_positions,
        # The two last words of the vocabulary, as CLIP's tokenizer has them.
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": config.vocab_size - 1,
        "pad_token_id": config.vocab_size - 1,
    }


def _describe_vision(config: VisionTransformerConfig) -> dict[str, Any]:
    return _described_sizes(config) | {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
    }


def _described_sizes(config: TransformerConfig | VisionTransformerConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.attention.heads,
        "intermediate_size": config.feed_forward.width,
        "hidden_act": activation_name(config.feed_forward.activation),
        "layer_norm_eps": config.norm.epsilon,
        "attention_dropout": config.attention.dropout,
    }


def _canonical(name: str, tower: str | None = None) -> str | None:
    if name.endswith("embeddings.position_ids"):
        return None
    # The newest transformers leave out the name of a tower that is alone.
    alone = name.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.",
                             "final_layer_norm."))  # fmt: skip
    return f"{tower}.{name}" if alone and tower else name


def _text_entries(_: TransformerConfig) -> tuple[Entry, ...]:
    return (
        Entry(
            "embeddings/word/embedding",
            "text_model.embeddings.token_embedding.weight",
            "vocab embed -> vocab embed",
        ),
        Entry(
            "embeddings/position/table/embedding",
            "text_model.embeddings.position_embedding.weight",
            "position embed -> position embed",
        ),
        *_layers("text_model"),
        *norm("final_norm", "text_model.final_layer_norm"),
    )


def _vision_entries(_: VisionTransformerConfig) -> tuple[Entry, ...]:
    embeddings = "vision_model.embeddings"
    return (
        Entry("embeddings/class", f"{embeddings}.class_embedding", "embed -> embed"),
        Entry("embeddings/patch/kernel", f"{embeddings}.patch_embedding.weight", PATCH),
        Entry(
            "embeddings/position/table/embedding",
            f"{embeddings}.position_embedding.weight",
            "position embed -> position embed",
        ),
        *norm("embeddings/norm", "vision_model.pre_layrnorm"),
        *_layers("vision_model"),
        *norm("final_norm", "vision_model.post_layernorm"),
    )


def _layers(tower: str) -> list[Entry]:
    layer = f"{tower}.encoder.layers.{{layer}}"
    parts = [f"{layer}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    return [
        *norm("layers/attention_norm", f"{layer}.layer_norm1"),
        *attention("layers/attention", *parts),
        *norm("layers/feed_forward_norm", f"{layer}.layer_norm2"),
        *widening("layers/feed_forward/up", f"{layer}.mlp.fc1"),
        *narrowing("layers/feed_forward/down", f"{layer}.mlp.fc2"),
    ]


def _entries(config: ClipConfig) -> tuple[Entry, ...]:
    head = "joint embed -> embed joint"
    towers = {
        "text_tower": _text_entries(config.text),
        "image_tower": _vision_entries(config.image),
    }
    return (
        Entry("log_scale", "logit_scale", "->"),
        Entry("text_head/kernel", "text_projection.weight", head),
        Entry("image_head/kernel", "visual_projection.weight", head),
        *(
            dataclasses.replace(entry, path=f"{tower}/{entry.path}")
            for tower, entries in towers.items()
            for entry in entries
        ),
    )


CLIP = Family(ClipConfig, clip_config, _describe, _entries, _canonical)
CLIP_TEXT = Family(
    TransformerConfig,
    clip_text_config,
    _describe_text,
    _text_entries,
    partial(_canonical, tower="text_model"),
)
CLIP_VISION = Family(
    VisionTransformerConfig,
    clip_vision_config,
    _describe_vision,
    _vision_entries,
    partial(_canonical, tower="vision_model"),
)
