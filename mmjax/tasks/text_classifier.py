"""A text encoder with a small head: what the tasks that learn one have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax

from mmjax.config import limited, operational
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.losses.cross_entropy import cross_entropy
from mmjax.losses.objective import LocalTerm, Objective
from mmjax.models.turn_classifier import TurnClassifier, TurnClassifierConfig
from mmjax.pretrained.folder import PretrainedFolder
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.towers import text_tower


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network.

    Attributes:
      text: preset (`mmjax.models.presets`) of an encoder, which gets a head, or of an
        encoder-decoder, which answers in words; "weights": as the folder says.
      weights: Hugging Face folder or hub id to start from, with its tokenizer; None: from scratch.
      hidden_dim, activation: of the layer between an encoder and its logits.
      vocab_size: of the SentencePiece vocabulary that is trained on the training dialogues when
        there is no `weights` folder.
      dropout: everywhere in the network; None: as the preset.
      attention_dropout: of the attention's weights; None: as elsewhere.
      attention: "auto": by a fused kernel wherever the devices have one that computes the same,
        which in training needs an attention_dropout of 0; "plain": never; "fused": or refuse.
      dtype: what is computed in.
      unroll: layers per trip of the loop over layers; 0: all.
      remat: what the backward pass computes again.
    """

    text: str = "bert-base"
    weights: str | None = None
    hidden_dim: int = limited(128, low=1)
    activation: Literal["tanh", "relu", "none"] = "tanh"
    vocab_size: int = limited(8000, low=1)
    dropout: float | None = limited(None, low=0, high=1)
    attention_dropout: float | None = limited(None, low=0, high=1)
    attention: Literal["auto", "plain", "fused"] = operational("auto")
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = limited(1, low=0)
    remat: Literal["none", "full", "dots"] = "none"


def text_classifier(
    model: ModelOptions,
    weights: PretrainedFolder | None,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    length_key: str = "max_length",
    hidden: bool = True,
) -> TurnClassifier:
    """The network, for texts of at most `max_length` tokens.

    Args:
      length_key: of `config.task`, what says so.
      hidden: whether there is a layer between the encoder and the logits.

    Raises:
      UserError: no such preset, the folder does not fit it, or the texts are too long for it.
    """
    encoder = text_tower(
        "text",
        model.text,
        weights,
        tokenizer,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        attention=model.attention,
        dtype=model.dtype,
        unroll=model.unroll,
        remat=model.remat,
    )
    position = encoder.position
    if position is not None and max_length > position.max_positions:
        raise UserError(
            f"config.task.{length_key}={max_length} is more than the encoder's "
            f"{position.max_positions} positions."
        )
    if not hidden:
        return TurnClassifier(TurnClassifierConfig(encoder, hidden_dim=None))
    return TurnClassifier(TurnClassifierConfig(encoder, model.hidden_dim, model.activation))


def classifier_objective(
    name: str, positive_weight: float = 1.0, focal_gamma: float = 0.0
) -> Objective:
    """Cross-entropy of the batch's "label", see `cross_entropy`; class 1 weighs so much."""

    def loss(outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        labels = batch["label"]
        return cross_entropy(
            outputs["logits"],
            labels["ids"],
            labels["mask"] * batch["weight"][:, None],
            class_weights=(1.0, positive_weight),
            focal_gamma=focal_gamma,
        )

    return Objective([LocalTerm(name, loss)])


def load_text_classifier(
    weights: PretrainedFolder | None, found: Any, target: Any
) -> Mapping[str, Any]:
    """Puts the folder's encoder into `found`, as `Task.initial_variables`; returns the reports."""
    if weights is None:
        return {}
    loaded, report = load_transformer(weights, target["params"]["text_tower"])
    found["params"]["text_tower"] = loaded
    return {"text_tower": report}
