"""BERT's folders (`model_type` "bert", MiniLM's too): config keys and tensor names."""

from __future__ import annotations

import re
from typing import Any

from mmjax.errors import UserError
from mmjax.models.layers import ACTIVATIONS
from mmjax.models.presets import bert
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained.family import Entry, Family


def bert_config(config: dict[str, Any]) -> TransformerConfig:
    """The transformer that a BERT config.json describes.

    Raises KeyError for a missing key, and UserError for a kind of BERT that is not supported.
    """
    activation = config["hidden_act"]
    if activation not in ACTIVATIONS:
        raise UserError(
            f"config.json: hidden_act is {activation!r}; supported: {sorted(ACTIVATIONS)}."
        )
    position = config.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise UserError(
            f"config.json: position_embedding_type is {position!r}; supported: 'absolute'."
        )
    if config.get("is_decoder"):
        raise UserError("config.json: is_decoder is true; only BERT encoders are supported.")
    return bert(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        feed_forward=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        segments=config["type_vocab_size"],
        activation=activation,
        epsilon=config["layer_norm_eps"],
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
    )


def _canonical(name: str) -> str | None:
    # Models with a head keep the encoder under "bert."; checkpoints converted from the first
    # TensorFlow release call the norm's parameters gamma and beta.
    name = re.sub(r"^bert\.", "", name)
    name = re.sub(r"\.gamma$", ".weight", name)
    name = re.sub(r"\.beta$", ".bias", name)
    return None if name == "embeddings.position_ids" else name


def _norm(path: str, name: str) -> list[Entry]:
    return [
        Entry(f"{path}/scale", f"{name}.weight", "embed -> embed"),
        Entry(f"{path}/bias", f"{name}.bias", "embed -> embed"),
    ]


def _projection(path: str, name: str, kernel: str, bias: str) -> list[Entry]:
    return [
        Entry(f"{path}/kernel", f"{name}.weight", kernel),
        Entry(f"{path}/bias", f"{name}.bias", bias),
    ]


def _entries() -> tuple[Entry, ...]:
    tables = [
        Entry(f"embeddings/{path}", f"embeddings.{name}.weight", f"{axis} embed -> {axis} embed")
        for path, name, axis in (
            ("word/embedding", "word_embeddings", "vocab"),
            ("position/table/embedding", "position_embeddings", "position"),
            ("segment/embedding", "token_type_embeddings", "segment"),
        )
    ]
    layer = "encoder.layer.{layer}"
    heads_in = "(heads head_dim) embed -> embed heads head_dim"
    heads_bias = "(heads head_dim) -> heads head_dim"
    attention = [
        entry
        for part in ("query", "key", "value")
        for entry in _projection(
            f"layers/attention/{part}", f"{layer}.attention.self.{part}", heads_in, heads_bias
        )
    ]
    return (
        *tables,
        *_norm("embeddings/norm", "embeddings.LayerNorm"),
        *attention,
        *_projection(
            "layers/attention/output",
            f"{layer}.attention.output.dense",
            "embed (heads head_dim) -> heads head_dim embed",
            "embed -> embed",
        ),
        *_norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *_projection(
            "layers/feed_forward/up",
            f"{layer}.intermediate.dense",
            "mlp embed -> embed mlp",
            "mlp -> mlp",
        ),
        *_projection(
            "layers/feed_forward/down",
            f"{layer}.output.dense",
            "embed mlp -> mlp embed",
            "embed -> embed",
        ),
        *_norm("layers/feed_forward_norm", f"{layer}.output.LayerNorm"),
    )


BERT = Family(bert_config, _entries(), _canonical)
