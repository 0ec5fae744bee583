"""What a kind of model brings to photo retrieval: networks, vocabulary, how well two sides fit."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import jax
from etils import epath

from mmjax.config import limited, operational
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.transformer import TransformerConfig
from mmjax.parallel.scores import DOT_PRODUCT, Score
from mmjax.parallel.topk import BLOCK
from mmjax.pretrained.exported import ModelFolder
from mmjax.pretrained.images import load_image_tower
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.retrieval_examples import RetrievalOptions
from mmjax.tasks.towers import (
    check_vocabulary,
    fit_tokenizer,
    fit_words,
    image_tower,
    open_weights,
    text_tower,
)

GRU = "gru"  # as `config.model.text`


@dataclasses.dataclass(frozen=True)
class ScanOptions:
    """See `StackedCrossAttention`.

    Attributes:
      direction: words look for regions, or regions for words.
      pooling: of what they find.
      smoothing: lambda_1, lambda_softmax in the paper's code.
      lse_smoothing: lambda_2, lambda_lse; of the pooling "lse".
    """

    direction: Literal["t-i", "i-t"] = "t-i"
    pooling: Literal["avg", "lse", "max", "sum"] = "avg"
    smoothing: float = limited(9.0, above=0)
    lse_smoothing: float = limited(6.0, above=0)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The networks.

    Attributes:
      kind: "dual_encoder" (a vector of the text, a vector of the photo), "vsepp" (the same, with a
        GRU and pixels alone) or "scan" (vectors of words and of regions).
      text: preset of the query tower (`mmjax.models.presets`), or "weights": as the folder says; or
        "gru", for "vsepp" and "scan": as wide as `joint_dim`, and both ways for "scan".
      labels: preset of the label tower; None: as `text`.
      image: preset of the image tower, or "weights".
      weights, label_weights, image_weights: Hugging Face folder or hub id to start from; None:
        from scratch. `weights` also gives the tokenizer.
      shared: one tower for dialogue and labels.
      batch_norm, batch_norm_group: of the image tower: "global" normalises by the statistics of
        the whole batch, "groups" by those of that many rows, "frozen" by the running ones.
      pooling, joint_dim, logit_scale, learn_scale, logit_bias: see `DualEncoderConfig`; the other
        kinds have a `joint_dim` too, and no scale or bias.
      scan: of "scan" alone.
      vocab_size: of the SentencePiece vocabulary that is trained on the training dialogues when
        there is no `weights` folder.
      word_dim, min_count: of a GRU: width of a word's vector, and how often a word must occur in
        the training queries to have one.
      dropout: of the text towers, everywhere in them; None: as the preset.
      attention_dropout: of the attention's weights; None: as elsewhere.
      attention: "auto": by a fused kernel wherever the devices have one that computes the same,
        which in training needs an attention_dropout of 0; "plain": never; "fused": or refuse.
      dtype: what is computed in.
      unroll: layers per trip of the loop over layers; 0: all.
      remat: what the backward pass computes again.
    """

    kind: Literal["dual_encoder", "vsepp", "scan"] = "dual_encoder"
    text: str = "bert-base"
    labels: str | None = None
    image: str = "resnet-152"
    weights: str | None = None
    label_weights: str | None = None
    image_weights: str | None = None
    shared: bool = False
    batch_norm: Literal["global", "groups", "frozen"] = "global"
    batch_norm_group: int = limited(32, low=2)
    pooling: Literal["cls", "mean"] = "cls"
    joint_dim: int | None = limited(512, low=1)
    logit_scale: float = limited(1.0, above=0)
    learn_scale: bool = False
    logit_bias: float | None = None
    scan: ScanOptions = ScanOptions()
    vocab_size: int = limited(8000, low=1)
    word_dim: int = limited(300, low=1)
    min_count: int = limited(4, low=1)
    dropout: float | None = limited(None, low=0, high=1)
    attention_dropout: float | None = limited(None, low=0, high=1)
    attention: Literal["auto", "plain", "fused"] = operational("auto")
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = limited(1, low=0)
    remat: Literal["none", "full", "dots"] = "none"


class RetrievalModel(abc.ABC):
    """A kind of model, from its options; what all kinds have in common.

    The module that it makes has the methods `embed_query` and `embed_photo`, (batch, train=...) ->
    what `score` reads, as its rows and its columns; and its outputs are both, as "query" and
    "photo", with "scale" and "bias".

    Attributes:
      candidates: what of a photo it can see, values of `RetrievalOptions.candidate`.
      score: of the two sides.
      tile: rows and columns of the scores that a training step holds at a time.
      block: queries and candidates that are scored at a time in evaluation.
    """

    candidates: ClassVar[tuple[str, ...]]
    score: Score = DOT_PRODUCT
    tile: tuple[int, int] = (256, 256)
    block: tuple[int, int] = BLOCK

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        if options.candidate not in self.candidates:
            known = " or ".join(self.candidates)
            raise UserError(
                f"config.model.kind={model.kind} does not see config.task.candidate="
                f"{options.candidate}: set it to {known}."
            )
        if model.text == GRU and model.weights is not None:
            raise UserError(
                "config.model.text=gru learns its words from the dialogues: leave "
                "config.model.weights out."
            )
        self.options, self.model = options, model
        self.weights = open_weights(model.weights)
        self.image_weights = open_weights(model.image_weights) if self.sees else None

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        closed = {name: None for name in self.__dict__ if name.endswith("weights")}
        return {**self.__dict__, **closed}

    @property
    def reads(self) -> bool:
        """Whether a network reads labels."""
        return self.options.candidate in ("labels", "both")

    @property
    def sees(self) -> bool:
        """Whether a network looks at pixels."""
        return self.options.candidate in ("pixels", "both", "boxes")

    @property
    def independent(self) -> bool:
        """Not where batch normalisation takes its statistics from the batch."""
        return not self.sees or self.model.batch_norm == "frozen"

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self.weights, folder)

    def check_batch(self, size: int) -> None:
        group = self.model.batch_norm_group
        if self.sees and self.model.batch_norm == "groups" and size % group:
            raise UserError(
                f"config.train.global_batch_size={size} does not divide into groups of "
                f"config.model.batch_norm_group={group}."
            )

    def fit_tokenizer(
        self, texts: Iterable[str], queries: Iterable[str], folder: epath.PathLike
    ) -> None:
        """Writes the weights' tokenizer, words, or a SentencePiece model.

        Args:
          texts: all that the training dialogues say; queries: what is asked in them.
        """
        if self.model.text == GRU:
            fit_words(queries, self.model.min_count, folder)
        else:
            fit_tokenizer(self.weights, texts, self.model.vocab_size, folder)

    @abc.abstractmethod
    def module(self, tokenizer: Tokenizer) -> Any:
        """The Linen module. Raises UserError where the options do not fit each other."""

    def exports(self, variables: Any, tokenizer: Tokenizer) -> Sequence[ModelFolder]:
        """As of `Task`."""
        raise UserError(
            f"config.model.kind={self.model.kind} has no form in Hugging Face's format: only a "
            "dual encoder can be exported."
        )

    def initial_variables(self, target: Any) -> tuple[Any, dict[str, Any]]:
        """As of `Task`."""
        found, reports = jax.tree.map(lambda _: None, target), {}
        params = found["params"]
        if self.weights is not None:
            loaded = load_transformer(self.weights, target["params"]["query_tower"])
            params["query_tower"], reports["query_tower"] = loaded
        if self.image_weights is not None:
            tower = {name: target[name]["image_tower"] for name in target}
            config = self.image_config()
            loaded, reports["image_tower"] = load_image_tower(self.image_weights, config, tower)
            for name, tree in loaded.items():
                found[name]["image_tower"] = tree
        return found, reports

    def text_config(self, tokenizer: Tokenizer) -> TransformerConfig:
        """The transformer that `config.model.text` names."""
        return self.transformer("text", self.model.text, "weights", self.weights, tokenizer)

    def transformer(
        self, key: str, preset: str, weights_key: str, weights: Any, tokenizer: Tokenizer
    ) -> TransformerConfig:
        """The one that `config.model.<key>` names, long enough for the task; see `text_tower`."""
        model, options = self.model, self.options
        tower = text_tower(
            key,
            preset,
            weights,
            tokenizer,
            weights_key=weights_key,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            attention=model.attention,
            dtype=model.dtype,
            unroll=model.unroll,
            remat=model.remat,
        )
        longest = max(options.query_max_length, options.label_max_length if self.reads else 0)
        if longest > tower.position.max_positions:
            raise UserError(
                f"config.task asks for {longest} tokens, but the encoder has "
                f"{tower.position.max_positions} positions."
            )
        return tower

    def image_config(self) -> ImageTowerConfig | None:
        """The network of the pixels; None where they are not seen."""
        if not self.sees:
            return None
        model = self.model
        image = image_tower(
            "image",
            model.image,
            self.image_weights,
            batch_norm=model.batch_norm,
            batch_norm_group=model.batch_norm_group,
            dtype=model.dtype,
            remat=model.remat,
        )
        if self.options.image.size < image.min_size:
            raise UserError(
                f"config.task.image.size={self.options.image.size} is too small: this network "
                f"needs {image.min_size} pixels a side."
            )
        return image

    def width(self) -> int:
        """Of the shared space, where there must be one."""
        if self.model.joint_dim is None:
            raise UserError(f"config.model.joint_dim must have a value for {self.model.kind}.")
        return self.model.joint_dim
