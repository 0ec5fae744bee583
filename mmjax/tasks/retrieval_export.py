"""The dual encoder as models of `transformers` and sentence-transformers, and their cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.data.tokenizer_export import transformers_files
from mmjax.data.tokenizers import Tokenizer
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.pixels import MEAN, STD
from mmjax.pretrained.exported import ModelFolder, linear
from mmjax.pretrained.images import image_content
from mmjax.pretrained.sentence_folder import sentence_files
from mmjax.pretrained.writing import transformer_content
from mmjax.tasks.retrieval_examples import Query, RetrievalOptions


def dual_encoder_folders(
    config: DualEncoderConfig,
    variables: Mapping[str, Any],
    tokenizer: Tokenizer,
    options: RetrievalOptions,
) -> list[ModelFolder]:
    """A folder per tower, and one of what turns their vectors into scores.

    Labels have a folder of their own unless it would be the query's.

    Raises:
      UserError: a tower has no form in Hugging Face's format.
    """
    params = variables["params"]
    heads = {name: params.get(f"{name}_head") for name in ("query", "photo")}
    alone = config.image is None  # then a photo's vector is its labels'
    cut = "left" if options.keep == "end" else "right"
    folders = [
        _text_folder(
            "query",
            config.query,
            params["query_tower"],
            transformers_files(tokenizer, options.query_max_length, truncation_side=cut),
            tokenizer,
            pooling=config.pooling,
            max_length=options.query_max_length,
            head=heads["query"],
            card=_QUERY.format(
                whose=_WHOSE[options.query],
                end={"end": "last", "start": "first"}[options.keep],
                count=options.query_max_length,
                also=_ALSO_LABELS.format(separator=options.label_separator)
                if _one_for_both(config)
                else "",
            ),
        )
    ]
    if config.labels is not None and not _one_for_both(config):
        folders.append(
            _text_folder(
                "labels",
                config.labels,
                params["query_tower" if config.shared else "label_tower"],
                transformers_files(tokenizer, options.label_max_length),
                tokenizer,
                pooling=config.pooling,
                max_length=options.label_max_length,
                head=heads["photo"] if alone else None,
                unit_length=alone,
                card=_LABELS.format(
                    separator=options.label_separator,
                    count=options.label_max_length,
                    rest="The result is the photo's vector."
                    if alone
                    else "The result is a part of the photo's vector, see `../scores`.",
                ),
            )
        )
    if config.image is not None:
        folders.append(_image_folder(config, variables, options))
    return [*folders, _scores_folder(config, params, heads)]


def _one_for_both(config: DualEncoderConfig) -> bool:
    """Whether one folder serves dialogue and labels."""
    return config.shared and config.joint_dim is None


def _text_folder(
    name: str,
    config: Any,
    params: Mapping[str, Any],
    tokenizer_files: Mapping[str, bytes],
    tokenizer: Tokenizer,
    *,
    card: str,
    **sentence: Any,
) -> ModelFolder:
    size = max(config.vocab_size, tokenizer.vocab_size)
    config = dataclasses.replace(config, vocab_size=size)
    described, tensors = transformer_content(config, params)
    described |= {"pad_token_id": tokenizer.pad_id}
    files = {**tokenizer_files, **sentence_files(width=config.width, **sentence)}
    return ModelFolder(name, described, tensors, card + _SENTENCES, files)


def _image_folder(
    config: DualEncoderConfig, variables: Mapping[str, Any], options: RetrievalOptions
) -> ModelFolder:
    tower = {kind: variables[kind]["image_tower"] for kind in ("params", "batch_stats")}
    described, tensors = image_content(config.image, tower)
    pixels = options.image
    card = _IMAGE.format(
        size=pixels.size,
        fit={
            "squash": "both sides are resized to it, whatever their ratio",
            "crop": "the shorter side is resized to 8/7 of it, and the middle is cut out",
        }[pixels.fit],
        mean=[round(float(x), 3) for x in MEAN],
        std=[round(float(x), 3) for x in STD],
    )
    return ModelFolder("image", described, tensors, card)


def _scores_folder(
    config: DualEncoderConfig, params: Mapping[str, Any], heads: Mapping[str, Any]
) -> ModelFolder:
    scale, bias = config.logit_scale, 0.0
    if config.learn_scale:
        scale = float(np.exp(min(float(params["log_scale"]), np.log(100.0))))
    if config.logit_bias is not None:
        bias = float(params["logit_bias"])
    parts = [
        *(["image"] if config.image is not None else []),
        *(["labels"] if config.labels is not None else []),
    ]
    described = {
        "task": "photo retrieval",
        "photo_parts": parts,
        "pooling": config.pooling,
        "joint_dim": config.joint_dim,
        "logit_scale": scale,
        "logit_bias": bias,
    }
    tensors = {
        tensor: x
        for name, head in heads.items()
        if head is not None
        for tensor, x in linear(head, f"{name}_head").items()
    }
    return ModelFolder("scores", described, tensors, _SCORES.format(parts=" and ".join(parts)))


_SENTENCES = """
The folder is in sentence-transformers' layout: `SentenceTransformer(folder).encode(texts)` gives
the result. By hand: `AutoTokenizer` and `AutoModel` of transformers give a vector per token,
`1_Pooling/config.json` says how they become one, `2_Dense`, where it is there, holds the linear
layer after it, and `modules.json` whether the result is scaled to length 1.
"""

_QUERY = """\
The vector of a dialogue, which is near those of the photos that fit it (PhotoChat, task B).

The text is what was said so far by {whose}, as [CLS] text [SEP]; of a
longer one the {end} tokens of {count} are kept (`truncation=True`).{also}
"""

_WHOSE: Mapping[Query, str] = {
    "sharer": "the one who shares, turns joined by a space",
    "both": "both, turns joined by a space",
    "marked": """both, turns joined by a space,
with "me:" before those of the one who shares and "you:" before the other's""",
}

_ALSO_LABELS = """
The same folder makes the vector of a photo, of the text of its labels joined by {separator!r}."""

_LABELS = """\
The vector of a photo's labels, joined by {separator!r}, as [CLS] labels [SEP]; of a longer text
the first {count} tokens are kept (`truncation=True`). {rest}
"""

_IMAGE = """\
The vector of a photo's pixels: `AutoModel` of transformers gives it as `pooler_output`.

`pixel_values` are a square of {size} pixels a side ({fit}), RGB from 0 to 1, less {mean}, by
{std}. The result is a part of the photo's vector, see `../scores`.
"""

_SCORES = """\
What turns the towers' vectors into scores. This folder is no model of transformers.

A dialogue's vector is what `../query` gives, of length 1. A photo's parts are {parts}: their
vectors, joined in this order, go through the linear layer `photo_head` where there is one, and are
scaled to length 1 (pixels that are missing are zeros). The score of a photo is
`logit_scale * (dialogue . photo) + logit_bias`: its order is that of the dot products.
"""
