"""The folders of BERT (`model_type` "bert", MiniLM's too) and of ALBERT."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from mmjax.models import presets
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained.config_keys import (
    MAX_LAYERS,
    activation_name,
    activation_of,
    number,
    refuse_unless,
    whole,
)
from mmjax.pretrained.family import Entry, Family, attention, narrowing, norm, projection, widening


def bert_config(config: dict[str, Any]) -> TransformerConfig:
    """The transformer that a BERT config.json describes.

    Raises KeyError for a missing key, and UserError for a kind of BERT that is not supported.
    """
    refuse_unless(config, position_embedding_type="absolute", is_decoder=False)
    return presets.bert(**_sizes(config))


def albert_config(config: dict[str, Any]) -> TransformerConfig:
    """The same for ALBERT."""
    refuse_unless(
        config, position_embedding_type="absolute", num_hidden_groups=1, inner_group_num=1
    )
    return presets.albert(embedding_width=whole(config, "embedding_size"), **_sizes(config))


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "layers": whole(config, "num_hidden_layers", MAX_LAYERS),
        "width": whole(config, "hidden_size"),
        "heads": whole(config, "num_attention_heads"),
        "feed_forward": whole(config, "intermediate_size"),
        "vocab_size": whole(config, "vocab_size"),
        "max_positions": whole(config, "max_position_embeddings"),
        "segments": whole(config, "type_vocab_size"),
        "activation": activation_of(config, "hidden_act"),
        "epsilon": number(config, "layer_norm_eps"),
        "dropout": number(config, "hidden_dropout_prob"),
        "attention_dropout": number(config, "attention_probs_dropout_prob"),
    }


def _describe_bert(config: TransformerConfig) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.attention.heads,
        "intermediate_size": config.feed_forward.width,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.position.max_positions,
        "type_vocab_size": config.segments,
        "hidden_act": activation_name(config.feed_forward.activation),
        "layer_norm_eps": config.norm.epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention.dropout,
    }


def _describe_albert(config: TransformerConfig) -> dict[str, Any]:
    return _describe_bert(config) | {
        "architectures": ["AlbertModel"],
        "model_type": "albert",
        "embedding_size": config.embedding_width,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
    }


def _canonical(prefix: str, name: str) -> str | None:
    # Models with a head keep the encoder under the prefix; checkpoints converted from the first
    # TensorFlow release call the norm's parameters gamma and beta.
    name = name.removeprefix(f"{prefix}.")
    name = re.sub(r"\.gamma$", ".weight", name)
    name = re.sub(r"\.beta$", ".bias", name)
    return None if name == "embeddings.position_ids" else name


def _embeddings() -> list[Entry]:
    tables = (
        ("word/embedding", "word_embeddings", "vocab"),
        ("position/table/embedding", "position_embeddings", "position"),
        ("segment/embedding", "token_type_embeddings", "segment"),
    )
    return [
        Entry(f"embeddings/{path}", f"embeddings.{name}.weight", f"{axis} embed -> {axis} embed")
        for path, name, axis in tables
    ] + norm("embeddings/norm", "embeddings.LayerNorm")


def _bert_entries(_: TransformerConfig) -> tuple[Entry, ...]:
    layer = "encoder.layer.{layer}"
    of_self = f"{layer}.attention.self"
    return (
        *_embeddings(),
        *attention(
            "layers/attention",
            f"{of_self}.query",
            f"{of_self}.key",
            f"{of_self}.value",
            f"{layer}.attention.output.dense",
        ),
        *norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *widening("layers/feed_forward/up", f"{layer}.intermediate.dense"),
        *narrowing("layers/feed_forward/down", f"{layer}.output.dense"),
        *norm("layers/feed_forward_norm", f"{layer}.output.LayerNorm"),
    )


def _albert_entries(_: TransformerConfig) -> tuple[Entry, ...]:
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    of_self = f"{layer}.attention"
    return (
        *_embeddings(),
        *projection(
            "embeddings/projection",
            "encoder.embedding_hidden_mapping_in",
            "embed embed_in -> embed_in embed",
            "embed -> embed",
        ),
        *attention(
            "layers/attention",
            f"{of_self}.query",
            f"{of_self}.key",
            f"{of_self}.value",
            f"{of_self}.dense",
        ),
        *norm("layers/attention_norm", f"{of_self}.LayerNorm"),
        *widening("layers/feed_forward/up", f"{layer}.ffn"),
        *narrowing("layers/feed_forward/down", f"{layer}.ffn_output"),
        *norm("layers/feed_forward_norm", f"{layer}.full_layer_layer_norm"),
    )


BERT = Family(
    TransformerConfig, bert_config, _describe_bert, _bert_entries, partial(_canonical, "bert")
)
ALBERT = Family(
    TransformerConfig,
    albert_config,
    _describe_albert,
    _albert_entries,
    partial(_canonical, "albert"),
)
