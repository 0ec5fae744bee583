"""TransResNet from its options: the networks, and the weights that they begin with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import jax
from etils import epath

from mmjax.config import limited, operational
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.trans_resnet import TransResNetConfig
from mmjax.pretrained.images import load_image_tower
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.context_reader import ContextOptions
from mmjax.tasks.towers import (
    fit_characters,
    fit_tokenizer,
    image_tower,
    open_weights,
    text_tower,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransResNetOptions:
    """The networks.

    Attributes:
      text: preset of the text towers (`mmjax.models.presets`), or "weights": as the folder says.
      weights, image_weights: Hugging Face folder or hub id to start from; None: from scratch.
        `weights` also gives the tokenizer.
      shared, hidden_dim, image_layers, fusion, fusion_layers: see `TransResNetConfig`.
      head_dropout: before the linear layers after the towers.
      image: preset of the image tower, or "weights"; where photos are seen.
      batch_norm: of the image tower, by the statistics of the whole batch or by the running ones.
      tokens: of the vocabulary that is fitted on the training dialogues where there is no `weights`
        folder: "characters", or "pieces" of words (SentencePiece).
      vocab_size: at most so many.
      dropout: everywhere in the text towers; None: as the preset.
      attention_dropout: of the attention's weights; None: as elsewhere.
      attention: "auto": by a fused kernel wherever the devices have one that computes the same,
        which in training needs an attention_dropout of 0; "plain": never; "fused": or refuse.
      dtype: what is computed in.
      unroll: layers per trip of the loop over layers; 0: all.
      remat: what the backward pass computes again.
    """

    text: str = "transresnet"
    weights: str | None = None
    shared: bool = False
    hidden_dim: int = limited(300, low=1)
    head_dropout: float = limited(0.2, low=0, below=1)
    image: str = "resnet-18"
    image_weights: str | None = None
    image_layers: int = limited(1, low=1)
    fusion: Literal["sum", "transformer_sum", "transformer_concat"] = "sum"
    fusion_layers: int = limited(1, low=1)
    batch_norm: Literal["global", "frozen"] = "frozen"
    tokens: Literal["characters", "pieces"] = "characters"
    vocab_size: int = limited(8000, low=1)
    dropout: float | None = limited(None, low=0, high=1)
    attention_dropout: float | None = limited(None, low=0, high=1)
    attention: Literal["auto", "plain", "fused"] = operational("auto")
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = limited(1, low=0)
    remat: Literal["none", "full", "dots"] = "none"


class TransResNetModel:
    """What the options of a model mean for a task's options.

    Attributes:
      weights, image_weights: folders, opened; None where there are none.
    """

    def __init__(self, options: ContextOptions, model: TransResNetOptions):
        self.options, self.model = options, model
        if model.image_weights is not None and not options.images:
            raise UserError(
                "config.model.image_weights names weights of an image tower, but "
                "config.task.images is off: set it, or leave them out."
            )
        self.weights = open_weights(model.weights)
        self.image_weights = open_weights(model.image_weights) if options.images else None

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        return {**self.__dict__, "weights": None, "image_weights": None}

    def fit_tokenizer(self, texts: Iterable[str], folder: epath.PathLike) -> None:
        """Writes the weights' tokenizer, or one of the texts."""
        if self.weights is None and self.model.tokens == "characters":
            fit_characters(texts, self.model.vocab_size, folder)
        else:
            fit_tokenizer(self.weights, texts, self.model.vocab_size, folder)

    def config(self, tokenizer: Tokenizer, longest: int) -> TransResNetConfig:
        """Raises UserError where the options do not fit each other, or texts of `longest` tokens
        are too long."""
        model = self.model
        text = text_tower(
            "text",
            model.text,
            self.weights,
            tokenizer,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            attention=model.attention,
            dtype=model.dtype,
            unroll=model.unroll,
            remat=model.remat,
        )
        if text.position is not None and longest > text.position.max_positions:
            raise UserError(
                f"config.task asks for {longest} tokens, but the encoder has "
                f"{text.position.max_positions} positions."
            )
        if model.fusion != "sum" and model.hidden_dim % text.attention.heads:
            raise UserError(
                f"config.model.hidden_dim={model.hidden_dim} does not divide among the "
                f"{text.attention.heads} heads of config.model.fusion={model.fusion}."
            )
        return TransResNetConfig(
            text=text,
            image=self._image(),
            shared=model.shared,
            hidden_dim=model.hidden_dim,
            image_layers=model.image_layers,
            fusion=model.fusion,
            fusion_layers=model.fusion_layers,
            dropout=model.head_dropout,
        )

    def initial_variables(self, target: Any) -> tuple[Any, dict[str, Any]]:
        """As of `Task`."""
        found, reports = jax.tree.map(lambda _: None, target), {}
        if self.weights is not None:
            for name in ("context_tower", "response_tower"):
                if name in target["params"]:
                    loaded = load_transformer(self.weights, target["params"][name])
                    found["params"][name], reports[name] = loaded
        if self.image_weights is not None:
            # Of other collections it alone has a part, and the norm after it.
            tower = {name: target[name]["image_tower"] for name in target}
            loaded, reports["image_tower"] = load_image_tower(
                self.image_weights, self._image(), tower
            )
            for name, tree in loaded.items():
                found[name]["image_tower"] = tree
        return found, reports

    def _image(self) -> ImageTowerConfig | None:
        model = self.model
        if not self.options.images:
            return None
        image = image_tower(
            "image",
            model.image,
            self.image_weights,
            batch_norm=model.batch_norm,
            dtype=model.dtype,
            remat=model.remat,
        )
        if self.options.image.size < image.min_size:
            raise UserError(
                f"config.task.image.size={self.options.image.size} is too small: this network "
                f"needs {image.min_size} pixels a side."
            )
        return image
