"""The folders of T5 (1.0 and 1.1) and mT5: config keys and tensor names."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mmjax.errors import UserError
from mmjax.models import presets
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.pretrained.config_keys import MAX_LAYERS, number, refuse_unless, whole
from mmjax.pretrained.family import Entry, Family, attention, narrowing, widening
from mmjax.pretrained.folder import Tensors

HEAD = "lm_head.weight"
WORDS = "shared.weight"
ROWS = 4096  # of the tables compared at a time

# feed_forward_proj there; activation and gate here. The gated gelu is not the exact one.
FEED_FORWARDS = {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True)}

# Tables of which every folder of an older date holds copies, and one that is never used.
COPIES = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)


def t5_config(config: dict[str, Any], *, scaled: bool = True) -> EncoderDecoderConfig:
    """The encoder-decoder that a T5 config.json describes, with what `_seen` adds to it.

    Args:
        scaled: whether logits are scaled where the config does not say that they are not.

    Raises KeyError for a missing key, and UserError for a kind of T5 that is not supported.
    """
    refuse_unless(config, is_encoder_decoder=True)
    config = {"relative_attention_max_distance": 128, "feed_forward_proj": "relu", **config}
    if config.get("num_decoder_layers") is None:
        config["num_decoder_layers"] = config["num_layers"]
    tied = config.get("tie_word_embeddings") is not False
    form = config["feed_forward_proj"]
    if form not in (*FEED_FORWARDS,):  # it may be no string
        raise UserError(
            f"config.json: feed_forward_proj is {form!r}; supported: {', '.join(FEED_FORWARDS)}."
        )
    activation, gated = FEED_FORWARDS[form]
    return presets.t5(
        layers=whole(config, "num_layers", MAX_LAYERS),
        decoder_layers=whole(config, "num_decoder_layers", MAX_LAYERS),
        width=whole(config, "d_model"),
        heads=whole(config, "num_heads"),
        head_dim=whole(config, "d_kv"),
        feed_forward=whole(config, "d_ff"),
        vocab_size=whole(config, "vocab_size"),
        activation=activation,
        gated=gated,
        tied_head=config.get("tied_head", tied),
        scale_logits=scaled and config.get("scale_decoder_outputs", tied),
        buckets=whole(config, "relative_attention_num_buckets"),
        max_distance=whole(config, "relative_attention_max_distance"),
        epsilon=number(config, "layer_norm_epsilon"),
        dropout=number(config, "dropout_rate"),
    )


def _seen(tensors: Tensors) -> dict[str, Any]:
    """Whether the head is the words' table: config.json says so of every mT5, and of no T5 1.1."""
    if HEAD not in tensors.names():
        return {"tied_head": True}
    if WORDS not in tensors.names() or tensors.shape(HEAD) != tensors.shape(WORDS):
        return {"tied_head": False}
    count = tensors.shape(HEAD)[0]
    for start in range(0, count, ROWS):
        rows = (slice(start, min(start + ROWS, count)), slice(None))
        if not np.array_equal(tensors.read(HEAD, rows), tensors.read(WORDS, rows)):
            return {"tied_head": False}
    return {"tied_head": True}


def _describe(model_type: str, config: EncoderDecoderConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    feed_forward = encoder.feed_forward
    forms = {parts: name for name, parts in FEED_FORWARDS.items()}
    return {
        "architectures": [f"{model_type.upper()}ForConditionalGeneration"],
        "model_type": model_type,
        "is_encoder_decoder": True,
        "num_layers": encoder.layers,
        "num_decoder_layers": decoder.layers,
        "d_model": encoder.width,
        "num_heads": encoder.attention.heads,
        "d_kv": encoder.attention.head_dim,
        "d_ff": feed_forward.width,
        "vocab_size": encoder.vocab_size,
        "feed_forward_proj": forms[feed_forward.activation, feed_forward.gated],
        "tie_word_embeddings": config.tied_head,
        "relative_attention_num_buckets": encoder.relative.buckets,
        "relative_attention_max_distance": encoder.relative.max_distance,
        "layer_norm_epsilon": encoder.norm.epsilon,
        "dropout_rate": encoder.dropout,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _canonical(name: str) -> str | None:
    return None if name in COPIES else name


def _entries(config: EncoderDecoderConfig) -> tuple[Entry, ...]:
    table = "vocab embed -> vocab embed"
    head = [] if config.tied_head else [Entry("head/embedding", HEAD, table)]
    return (
        Entry("words/embedding", WORDS, table),
        *head,
        *_stack("encoder", ("SelfAttention",), config.encoder.feed_forward.gated),
        *_stack("decoder", ("SelfAttention", "EncDecAttention"), config.decoder.feed_forward.gated),
    )


def _stack(side: str, attentions: tuple[str, ...], gated: bool) -> list[Entry]:
    def scale(path: str, name: str) -> Entry:
        return Entry(f"{side}/{path}/scale", f"{side}.{name}.weight", "embed -> embed")

    first = f"{side}.block.0.layer.0.SelfAttention"
    entries = [
        Entry(
            f"{side}/relative_positions/embedding",
            f"{first}.relative_attention_bias.weight",
            "buckets heads -> buckets heads",
        ),
        scale("final_norm", "final_layer_norm"),
    ]
    for i, theirs in enumerate(attentions):
        ours = "cross_attention" if theirs == "EncDecAttention" else "attention"
        name = f"{side}.block.{{layer}}.layer.{i}.{theirs}"
        parts = [f"{name}.{part}" for part in "qkvo"]
        entries += attention(f"{side}/layers/{ours}", *parts, bias=False)
        entries.append(scale(f"layers/{ours}_norm", f"block.{{layer}}.layer.{i}.layer_norm"))
    last = f"block.{{layer}}.layer.{len(attentions)}"
    entries.append(scale("layers/feed_forward_norm", f"{last}.layer_norm"))
    name, path = f"{side}.{last}.DenseReluDense", f"{side}/layers/feed_forward"
    ups = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    for ours, theirs in ups.items():
        entries += widening(f"{path}/{ours}", f"{name}.{theirs}", bias=False)
    return entries + narrowing(f"{path}/down", f"{name}.wo", bias=False)


T5 = Family(EncoderDecoderConfig, t5_config, partial(_describe, "t5"), _entries, _canonical, _seen)
MT5 = Family(
    EncoderDecoderConfig,
    partial(t5_config, scaled=False),
    partial(_describe, "mt5"),
    _entries,
    _canonical,
    _seen,
)
