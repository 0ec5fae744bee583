"""Which towers a config asks for, checked against the folders of weights that it names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from mmjax.data.tokenizers import (
    Tokenizer,
    load_tokenizer,
    train_character_tokenizer,
    train_tokenizer,
    train_word_tokenizer,
)
from mmjax.errors import UserError
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.presets import CAUSAL_PRESETS, ENCODER_DECODER_PRESETS, IMAGE_PRESETS, PRESETS
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained.folder import PretrainedFolder, load_folder
from mmjax.pretrained.images import image_config
from mmjax.pretrained.loading import transformer_config

FROM_FOLDER = "weights"


def open_weights(path: str | None) -> PretrainedFolder | None:
    """The folder or hub id, opened; None for None."""
    return None if path is None else load_folder(path)


def fit_tokenizer(
    weights: PretrainedFolder | None, texts: Iterable[str], vocab_size: int, folder: epath.PathLike
) -> Tokenizer:
    """Writes to `folder` the weights' tokenizer, or a SentencePiece model of the texts."""
    folder = os.fspath(folder)
    if weights is None:
        return train_tokenizer(texts, vocab_size, folder)
    tokenizer = load_tokenizer(weights.path)
    tokenizer.save(folder)
    return tokenizer


def fit_characters(texts: Iterable[str], vocab_size: int, folder: epath.PathLike) -> Tokenizer:
    """Writes to `folder` a vocabulary of the texts' characters."""
    return train_character_tokenizer(texts, vocab_size, os.fspath(folder))


def fit_words(texts: Iterable[str], min_count: int, folder: epath.PathLike) -> Tokenizer:
    """Writes to `folder` a vocabulary of the texts' words."""
    return train_word_tokenizer(texts, min_count, os.fspath(folder))


def check_vocabulary(weights: PretrainedFolder | None, folder: epath.PathLike) -> None:
    """Raises UserError where the tokenizer in `folder` is not the weights' one."""
    if weights is None:
        return
    theirs = load_tokenizer(os.fspath(folder))
    if theirs.fingerprint != load_tokenizer(weights.path).fingerprint:
        raise UserError(
            "config.model.weights and config.train.init_from have different vocabularies: "
            "leave one of them out, or begin the first stage with the same weights."
        )


def text_tower(
    key: str,
    preset: str,
    weights: PretrainedFolder | None,
    tokenizer: Tokenizer,
    *,
    weights_key: str = "weights",
    presets: Mapping[str, TransformerConfig] = PRESETS,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    attention: str = "auto",
    dtype: str = "float32",
    unroll: int = 1,
    remat: str = "none",
) -> TransformerConfig:
    """The transformer that `config.model.<key>` names.

    Args:
      preset: a key of `presets`, or "weights": as the folder says.
      weights_key: the option that names the folder, for messages.
      dropout: everywhere in the tower; None: as the preset.
      attention_dropout: of the attention's weights; None: as elsewhere.
      attention: how it is computed, see `Attention.kernel`.
      unroll: layers per trip of the loop over layers; 0: all.

    Raises:
      UserError: no such preset, or the folder, the preset and the tokenizer do not fit.
    """
    config = _chosen(key, preset, weights, weights_key, presets, transformer_config)
    if weights is not None and preset != FROM_FOLDER:
        _check_size(config, presets[preset], preset, weights)
    config = _as_the_run_wants(config, weights, tokenizer, dtype, unroll, remat, attention)
    return _dropped(config, dropout, attention_dropout)


def causal_transformer(
    key: str,
    preset: str,
    weights: PretrainedFolder | None,
    tokenizer: Tokenizer,
    **wanted: Any,
) -> TransformerConfig:
    """A transformer that writes text, of `CAUSAL_PRESETS`; arguments as of `text_tower`."""
    config = text_tower(key, preset, weights, tokenizer, presets=CAUSAL_PRESETS, **wanted)
    if not config.attention.causal:
        raise UserError(
            f"the weights in {weights.path} are of an encoder, which writes nothing: name a folder "
            "of a GPT."
        )
    return config


def encoder_decoder(
    key: str,
    preset: str,
    weights: PretrainedFolder | None,
    tokenizer: Tokenizer,
    *,
    weights_key: str = "weights",
    dropout: float | None = None,
    attention_dropout: float | None = None,
    attention: str = "auto",
    dtype: str = "float32",
    unroll: int = 1,
    remat: str = "none",
) -> EncoderDecoderConfig:
    """The encoder-decoder that `config.model.<key>` names; arguments as of `text_tower`.

    Args:
      preset: a key of `ENCODER_DECODER_PRESETS`, or "weights": as the folder says.

    Raises:
      UserError: no such preset, or the folder, the preset and the tokenizer do not fit.
    """

    def of_folder(folder: PretrainedFolder) -> EncoderDecoderConfig:
        return transformer_config(folder, EncoderDecoderConfig)

    config = _chosen(key, preset, weights, weights_key, ENCODER_DECODER_PRESETS, of_folder)
    if weights is not None and preset != FROM_FOLDER:
        wanted = ENCODER_DECODER_PRESETS[preset]
        _check_size(config.encoder, wanted.encoder, preset, weights)
        _check_size(config.decoder, wanted.decoder, preset, weights)
    sides = {"encoder": config.encoder, "decoder": config.decoder}
    for side, part in sides.items():
        part = _as_the_run_wants(part, weights, tokenizer, dtype, unroll, remat, attention)
        sides[side] = _dropped(part, dropout, attention_dropout)
    return dataclasses.replace(config, **sides)


def _check_size(
    config: TransformerConfig, wanted: TransformerConfig, preset: str, weights: PretrainedFolder
) -> None:
    if (config.layers, config.width) != (wanted.layers, wanted.width):
        raise UserError(
            f"the weights in {weights.path} have {config.layers} layers of width "
            f"{config.width}, the preset {preset!r} has {wanted.layers} of {wanted.width}: "
            'name another, or "weights" to take what the folder has.'
        )


def _as_the_run_wants(
    config: TransformerConfig,
    weights: PretrainedFolder | None,
    tokenizer: Tokenizer,
    dtype: str,
    unroll: int,
    remat: str,
    attention: str,
) -> TransformerConfig:
    if weights is None:
        config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    if tokenizer.vocab_size > config.padded_vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the encoder's table "
            f"{config.vocab_size}: they do not belong together. Name a folder whose tokenizer "
            "and weights were saved together."
        )
    how = {"dtype": dtype, "unroll": unroll or config.layers, "remat": remat, "kernel": attention}
    return dataclasses.replace(config, **how)


def _dropped(
    config: TransformerConfig, dropout: float | None, attention_dropout: float | None
) -> TransformerConfig:
    parts: dict[str, Any] = {}
    of_attention = dropout if attention_dropout is None else attention_dropout
    if of_attention is not None:
        parts["attention"] = config.attention.copy(dropout=of_attention)
        if config.cross_attention is not None:
            parts["cross_attention"] = config.cross_attention.copy(dropout=of_attention)
    if dropout is not None:
        parts["dropout"] = dropout
        if config.feed_forward.dropout:  # some have it inside
            parts["feed_forward"] = config.feed_forward.copy(dropout=dropout)
    return dataclasses.replace(config, **parts)


def image_tower(
    key: str,
    preset: str,
    weights: PretrainedFolder | None,
    *,
    weights_key: str = "image_weights",
    **options: Any,
) -> ImageTowerConfig:
    """The network of images that `config.model.<key>` names.

    Args:
      preset: a key of `IMAGE_PRESETS`, or "weights": as the folder says.
      options: fields of `ImageTowerConfig` that the run decides (batch_norm, dtype, remat).

    Raises:
      UserError: no such preset, or the folder and the preset do not fit.
    """
    config = _chosen(key, preset, weights, weights_key, IMAGE_PRESETS, image_config)
    if weights is not None and preset != FROM_FOLDER and config != IMAGE_PRESETS[preset]:
        raise UserError(
            f"the weights in {weights.path} are of another network than the preset {preset!r}: "
            'name another, or "weights" to take what the folder has.'
        )
    return dataclasses.replace(config, **options)


def _chosen(
    key: str,
    preset: str,
    weights: PretrainedFolder | None,
    weights_key: str,
    presets: Mapping[str, Any],
    of_folder: Any,
) -> Any:
    if preset != FROM_FOLDER and preset not in presets:
        raise UserError(
            f"config.model.{key}={preset!r} is no encoder: there are "
            f'{", ".join(presets)} and "{FROM_FOLDER}".'
        )
    if weights is not None:
        return of_folder(weights)
    if preset == FROM_FOLDER:
        raise UserError(f'config.model.{key}="{FROM_FOLDER}" needs config.model.{weights_key}.')
    return presets[preset]
