"""Photo retrieval: which photo does a dialogue lead up to? (PhotoChat, task B)

A dual encoder learns it. What an example is, and how answers look, is in `retrieval_examples`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from mmjax.config import limited
from mmjax.data import tokenizers
from mmjax.data.examples import Example
from mmjax.data.featurize import Lazy, Ragged, buckets_up_to
from mmjax.data.images import BadImageError, PhotoReader
from mmjax.data.schema import Dialogue, Photo
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Predict
from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge
from mmjax.metrics.retrieval import Ranking, ranking_from_embeddings
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.pretrained.exported import ModelFolder
from mmjax.pretrained.images import load_image_tower
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.base import Predictor, Task
from mmjax.tasks.retrieval_examples import (
    ExampleText,
    RetrievalOptions,
    RetrievalText,
    query_text,
    shared_photo,
)
from mmjax.tasks.retrieval_export import dual_encoder_folders
from mmjax.tasks.towers import (
    check_vocabulary,
    fit_tokenizer,
    image_tower,
    open_weights,
    text_tower,
)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The towers.

    Attributes:
      text: preset of the query tower (`mmjax.models.presets`), or "weights": as the folder says.
      labels: preset of the label tower; None: as `text`.
      image: preset of the image tower, or "weights".
      weights, label_weights, image_weights: Hugging Face folder or hub id to start from; None:
        from scratch. `weights` also gives the tokenizer.
      shared: one tower for dialogue and labels.
      batch_norm, batch_norm_group: of the image tower: "global" normalises by the statistics of
        the whole batch, "groups" by those of that many rows, "frozen" by the running ones.
      pooling, joint_dim, logit_scale, learn_scale, logit_bias: see `DualEncoderConfig`.
      vocab_size: of the SentencePiece vocabulary that is trained on the training dialogues when
        there is no `weights` folder.
      dropout: of the text towers, everywhere in them; None: as the preset.
      dtype: what is computed in.
      unroll: layers per trip of the loop over layers; 0: all.
      remat: what the backward pass computes again.
    """

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
    vocab_size: int = limited(8000, low=1)
    dropout: float | None = limited(None, low=0, high=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = limited(1, low=0)
    remat: Literal["none", "full", "dots"] = "none"


class RetrievalTask(RetrievalText, Task):
    """A dual encoder learns the task. See `mmjax.tasks.base.Task` for the members."""

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        super().__init__(options)
        self.model = model
        self._tokenizer: tokenizers.Tokenizer | None = None
        if model.label_weights and (model.shared or not model.weights):
            raise UserError(
                "config.model.label_weights needs config.model.weights and shared=False."
            )
        if self.photos and model.joint_dim is None:
            raise UserError("config.model.joint_dim must have a value where pixels are seen.")
        self._weights = open_weights(model.weights)
        self._label_weights = open_weights(model.label_weights)
        self._image_weights = open_weights(model.image_weights) if self.photos else None
        self._read_photo = PhotoReader(options.image)

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        closed = {"_weights": None, "_label_weights": None, "_image_weights": None}
        return {**self.__dict__, **closed}

    @property
    def independent(self) -> bool:
        """Not where batch normalisation takes its statistics from the batch."""
        return not self.photos or self.model.batch_norm == "frozen"

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self._weights, folder)

    def check_batch(self, size: int) -> None:
        group = self.model.batch_norm_group
        if self.photos and self.model.batch_norm == "groups" and size % group:
            raise UserError(
                f"config.train.global_batch_size={size} does not divide into groups of "
                f"config.model.batch_norm_group={group}."
            )

    # Data

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer: the pretrained folder's, or a SentencePiece model of the dialogues."""
        texts = (text for d in _read(source) for text in self._all_texts(d))
        size = self.model.vocab_size
        self._tokenizer = fit_tokenizer(self._weights, texts, size, folder)

    def load(self, folder: epath.PathLike) -> None:
        self._tokenizer = tokenizers.load_tokenizer(os.fspath(folder))

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "tokenizer": self._tokenizer.fingerprint}

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        pad = self._tokenizer.pad_id
        sides = {"query": Ragged(pad, buckets_up_to(self.options.query_max_length))}
        if self.reads:
            sides["photo"] = Ragged(pad, buckets_up_to(self.options.label_max_length))
        return sides

    def _example(self, text: ExampleText) -> Example:
        lengths = {"query": len(self._query(text.query))}
        if self.reads:
            lengths["photo"] = len(self._label_ids(text.labels))
        return Example(text.sub, lengths, text.keys)

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        make = {"query": lambda: self._query(self.query(dialogue, sub))}
        if self.reads:
            make["photo"] = lambda: self._label_ids(self.labels(dialogue, sub))
        if self.photos:
            photo = shared_photo(dialogue, sub)[1]
            # Drawn whether it is asked for or not: what is drawn next does not depend on that.
            mirror = rng is not None and self.options.image.mirror and rng.random() < 0.5
            make["image"] = lambda: self._pixels(photo, rng)
            make["has_image"] = lambda: np.bool_(photo.file is not None)
            make["mirror"] = lambda: np.bool_(mirror)
        return Lazy(**make)

    def _pixels(self, photo: Photo, rng: np.random.Generator | None) -> np.ndarray:
        if photo.file is None:
            return np.zeros((self.options.image.size, self.options.image.size, 3), np.uint8)
        try:
            return self._read_photo(photo.file, rng)
        except BadImageError as error:  # each was read when it was prepared
            raise UserError(
                f"photo {photo.id} cannot be read any more ({error}): delete the prepared data."
            ) from error

    def _query(self, text: str) -> np.ndarray:
        return self._clip(text, self.options.query_max_length, self.options.keep)

    def _label_ids(self, text: str) -> np.ndarray:
        return self._clip(text, self.options.label_max_length, "start")

    def _clip(self, text: str, max_length: int, keep: str) -> np.ndarray:
        t = self._tokenizer
        return tokenizers.clip(t.encode(text), max_length, t.cls_id, t.sep_id, keep=keep)

    def _all_texts(self, dialogue: Dialogue) -> Iterable[str]:
        yield from (turn.text for turn in dialogue.turns if turn.text)
        yield from (", ".join(p.labels) for turn in dialogue.turns for p in turn.photos)

    # Learning

    def module(self) -> DualEncoder:
        model = self.model
        query = self._text_tower("text", model.text, "weights", self._weights)
        labels = query if self.reads else None
        if self.reads and not model.shared and (model.labels or self._label_weights):
            preset = model.labels or "weights"
            labels = self._text_tower("labels", preset, "label_weights", self._label_weights)
        if model.shared and model.labels not in (None, model.text):
            raise UserError(
                f"config.model.shared=True needs one kind of tower, but text={model.text!r} and "
                f"labels={model.labels!r}."
            )
        longest = max(self.options.query_max_length, self.options.label_max_length)
        for tower in filter(None, (query, labels)):
            if longest > tower.position.max_positions:
                raise UserError(
                    f"config.task asks for {longest} tokens, but the encoder has "
                    f"{tower.position.max_positions} positions."
                )
        image = None
        if self.photos:
            image = image_tower(
                "image",
                model.image,
                self._image_weights,
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
        return DualEncoder(
            DualEncoderConfig(
                query=query,
                labels=labels,
                image=image,
                shared=model.shared,
                pooling=model.pooling,
                joint_dim=model.joint_dim,
                logit_scale=model.logit_scale,
                learn_scale=model.learn_scale,
                logit_bias=model.logit_bias,
            )
        )

    def _text_tower(self, key: str, preset: str, weights_key: str, weights: Any) -> Any:
        model = self.model
        return text_tower(
            key,
            preset,
            weights,
            self._tokenizer,
            weights_key=weights_key,
            dropout=model.dropout,
            dtype=model.dtype,
            unroll=model.unroll,
            remat=model.remat,
        )

    def objective(self) -> Objective:
        options = self.options
        loss = {
            "ce": SoftmaxCE(),
            "sh": SumHinge(options.margin),
            "mh": HardestHinge(options.margin),
            "sigmoid": Sigmoid(),
        }[options.loss]
        return Objective(
            [
                PairTerm(
                    "retrieval",
                    rows="query",
                    columns="photo",
                    scale="scale",
                    bias="bias",
                    loss=loss,
                    reduction=options.reduction,
                )
            ]
        )

    def predictors(self) -> Mapping[str, Predictor]:
        module = self.module()

        def query(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch, method=DualEncoder.embed_query)

        def photo(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch, method=DualEncoder.embed_photo)

        text = ("photo",) if self.reads else ()
        seen = ("image", "has_image") if self.photos else ()
        return {
            "query": Predictor(query, ("query",)),
            "photo": Predictor(photo, (*text, *seen)),
        }

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        config = self.module().config
        return dual_encoder_folders(config, variables, self._tokenizer, self.options)

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        everything = np.arange(len(split.index))
        return self.told(split, self._ranking(split, predict, top, everything))

    def sample(self, split: Split, predict: Predict) -> np.ndarray | None:
        # The same dialogues each time, spread over the split, among all of its photos.
        some = np.unique(np.linspace(0, len(split.index) - 1, 6).astype(np.int64))
        return self.sheet(split, self.told(split, self._ranking(split, predict, 5, some), some))

    def _ranking(self, split: Split, predict: Predict, k: int, some: np.ndarray) -> Ranking:
        """The k best of all photos of the split for some of its examples."""
        pool = self.pool(split)
        queries = predict("query", np.arange(len(split.index)))[some]
        photos = predict("photo", pool.content)[pool.content_of]
        return ranking_from_embeddings(queries, photos, pool.gold[some], k)

    def initial_variables(self, target: Any) -> tuple[Any, Any]:
        found, reports = jax.tree.map(lambda _: None, target), {}
        params = found["params"]
        if self._weights is not None:
            loaded = load_transformer(self._weights, target["params"]["query_tower"])
            params["query_tower"], reports["query_tower"] = loaded
        if "label_tower" in params:
            folder = self._label_weights or (None if self.model.labels else self._weights)
            if folder is not None:
                loaded = load_transformer(folder, target["params"]["label_tower"])
                params["label_tower"], reports["label_tower"] = loaded
        if self._image_weights is not None:
            tower = {name: target[name]["image_tower"] for name in target}
            loaded, reports["image_tower"] = load_image_tower(
                self._image_weights, self.module().config.image, tower
            )
            for name, tree in loaded.items():
                found[name]["image_tower"] = tree
        return found, reports


def _read(source: Source) -> Iterable[Dialogue]:
    return (source[i] for i in range(len(source)))


OPTIONS, MODEL_OPTIONS, TASK, TEXT = RetrievalOptions, ModelOptions, RetrievalTask, RetrievalText

__all__ = ["ModelOptions", "RetrievalOptions", "RetrievalTask", "query_text", "shared_photo"]
