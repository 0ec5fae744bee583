"""GPT-2's and GPT's folders (`model_type` "gpt2", "openai-gpt"): config keys, tensor names."""

from __future__ import annotations

import re
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
from mmjax.pretrained.family import Entry, Family, norm, projection

PARTS = ("query", "key", "value")


def gpt2_config(config: dict[str, Any]) -> TransformerConfig:
    """The transformer that a GPT-2 config.json describes.

    Raises KeyError for a missing key, and UserError for a kind of GPT-2 that is not supported.
    """
    dropout = number(config, "resid_pdrop")
    refuse_unless(
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
        embd_pdrop=dropout,
    )
    return presets.gpt2(
        layers=whole(config, "n_layer", MAX_LAYERS),
        width=whole(config, "n_embd"),
        heads=whole(config, "n_head"),
        feed_forward=None if config.get("n_inner") is None else whole(config, "n_inner"),
        vocab_size=whole(config, "vocab_size"),
        max_positions=whole(config, "n_positions"),
        activation=activation_of(config, "activation_function"),
        epsilon=number(config, "layer_norm_epsilon"),
        dropout=dropout,
        attention_dropout=number(config, "attn_pdrop"),
    )


def gpt_config(config: dict[str, Any]) -> TransformerConfig:
    """The transformer that a GPT config.json describes; raises as `gpt2_config`."""
    dropout = number(config, "resid_pdrop")
    # What "gelu" means there is GPT-2's way to compute it.
    refuse_unless(config, afn="gelu", tie_word_embeddings=True, embd_pdrop=dropout)
    return presets.gpt(
        layers=whole(config, "n_layer", MAX_LAYERS),
        width=whole(config, "n_embd"),
        heads=whole(config, "n_head"),
        vocab_size=whole(config, "vocab_size"),
        max_positions=whole(config, "n_positions"),
        epsilon=number(config, "layer_norm_epsilon"),
        dropout=dropout,
        attention_dropout=number(config, "attn_pdrop"),
    )


def _describe(config: TransformerConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_inner": config.feed_forward.width,
        "activation_function": activation_name(config.feed_forward.activation),
        **_sizes(config),
    }


def _describe_gpt(config: TransformerConfig) -> dict[str, Any]:
    return {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        "afn": "gelu",
        **_sizes(config),
    }


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    return {
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.attention.heads,
        "vocab_size": config.vocab_size,
        "n_positions": config.position.max_positions,
        "layer_norm_epsilon": config.norm.epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention.dropout,
    }


def _canonical(name: str) -> str | None:
    name = name.removeprefix("transformer.")
    # The head is the words' table; the others are the causal mask, as buffers.
    if name == "lm_head.weight" or re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
        return None
    return f"transformer.{name}"


def _entries(_: TransformerConfig) -> tuple[Entry, ...]:
    return (
        *_tables("transformer.wte", "transformer.wpe"),
        *_layers(),
        *norm("final_norm", "transformer.ln_f"),
    )


def _gpt_entries(_: TransformerConfig) -> tuple[Entry, ...]:
    return (*_tables("transformer.tokens_embed", "transformer.positions_embed"), *_layers())


def _tables(words: str, positions: str) -> tuple[Entry, ...]:
    return (
        Entry("embeddings/word/embedding", f"{words}.weight", "vocab embed -> vocab embed"),
        Entry(
            "embeddings/position/table/embedding",
            f"{positions}.weight",
            "position embed -> position embed",
        ),
    )


def _layers() -> tuple[Entry, ...]:
    layer = "transformer.h.{layer}"
    joined = [
        Entry(f"layers/attention/{part}/{leaf}", f"{layer}.attn.c_attn.{theirs}", axes,
              part=i, parts=len(PARTS))
        for i, part in enumerate(PARTS)
        for leaf, theirs, axes in (
            ("kernel", "weight", "embed (parts heads head_dim) -> embed heads head_dim"),
            ("bias", "bias", "(parts heads head_dim) -> heads head_dim"),
        )
    ]  # fmt: skip
    return (
        *norm("layers/attention_norm", f"{layer}.ln_1"),
        *joined,
        # Their kernels are ours: inputs before outputs.
        *projection(
            "layers/attention/output",
            f"{layer}.attn.c_proj",
            "(heads head_dim) embed -> heads head_dim embed",
            "embed -> embed",
        ),
        *norm("layers/feed_forward_norm", f"{layer}.ln_2"),
        *projection(
            "layers/feed_forward/up", f"{layer}.mlp.c_fc", "embed mlp -> embed mlp", "mlp -> mlp"
        ),
        *projection(
            "layers/feed_forward/down",
            f"{layer}.mlp.c_proj",
            "mlp embed -> mlp embed",
            "embed -> embed",
        ),
    )


GPT2 = Family(TransformerConfig, gpt2_config, _describe, _entries, _canonical)
GPT = Family(TransformerConfig, gpt_config, _describe_gpt, _gpt_entries, _canonical)
