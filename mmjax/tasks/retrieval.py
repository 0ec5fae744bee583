"""Photo retrieval: which photo does a dialogue lead up to? (PhotoChat, task B)

An example is a dialogue cut before a share turn, with the shared photo. The query is what was said
before; a candidate is a photo, known by the text of its object labels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from mmjax.config import limited
from mmjax.data import tokenizers
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.featurize import Ragged, buckets_up_to
from mmjax.data.schema import Dialogue, Photo
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Pool, Predict, RetrievalEvaluator, candidate_pool
from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge, SoftmaxCE, SumHinge
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.presets import PRESETS
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained.folder import load_folder
from mmjax.pretrained.loading import load_transformer, transformer_config
from mmjax.tasks.base import Predictor


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The two towers.

    Attributes:
      text: preset of the query tower (`mmjax.models.presets`), or "weights": as the folder says.
      labels: preset of the label tower; None: as `text`.
      weights, label_weights: Hugging Face folder or hub id to start from; None: from scratch.
        `weights` also gives the tokenizer.
      shared: one tower for both sides.
      pooling, joint_dim, logit_scale, learn_scale: see `DualEncoderConfig`.
      vocab_size: of the SentencePiece vocabulary that is trained on the training dialogues when
        there is no `weights` folder.
      dropout: of both towers, everywhere in them; None: as the preset.
      dtype: what is computed in.
      unroll: layers per trip of the loop over layers; 0: all (fastest on a CPU).
      remat: what the backward pass computes again.
    """

    text: str = "bert-base"
    labels: str | None = None
    weights: str | None = None
    label_weights: str | None = None
    shared: bool = False
    pooling: Literal["cls", "mean"] = "cls"
    joint_dim: int | None = limited(512, low=1)
    logit_scale: float = limited(1.0, above=0)
    learn_scale: bool = False
    vocab_size: int = limited(8000, low=1)
    dropout: float | None = limited(None, low=0, high=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = limited(1, low=0)
    remat: Literal["none", "full", "dots"] = "none"


@dataclasses.dataclass(frozen=True)
class RetrievalOptions:
    """What is asked, what is learned, what is counted.

    Attributes:
      query: whose turns before the share make the query, joined by a space: the sharer's (as in
        the paper), or both speakers'.
      query_max_length, label_max_length: tokens, with [CLS] and [SEP].
      keep: which end of a query that is too long is kept.
      label_separator: between the labels of a photo.
      loss: "ce" (both directions, summed), "sh" (sum of hinges), "mh" (hardest hinge).
      margin: of the hinges.
      reduction: over the batch; VSE++ sums.
      mask_equal_labels: photos with equal labels are no negatives of each other (a model that
        sees only labels cannot tell them apart). Equal photos never are.
      ties: how equal scores count in R@K: "expected", "pessimistic" or "argsort_reversed".
    """

    query: Literal["sharer", "both"] = "sharer"
    query_max_length: int = limited(128, low=3)
    label_max_length: int = limited(128, low=3)
    keep: Literal["end", "start"] = "end"
    label_separator: str = ", "
    loss: Literal["ce", "sh", "mh"] = "ce"
    margin: float = limited(0.2, low=0)
    reduction: Literal["mean", "sum"] = "mean"
    mask_equal_labels: bool = True
    ties: Literal["expected", "pessimistic", "argsort_reversed"] = "expected"


def shared_photo(dialogue: Dialogue, sub: int) -> tuple[int, Photo]:
    """Position of the dialogue's share turn number `sub`, and its photo."""
    shares = [(i, photo) for i, turn in enumerate(dialogue.turns) for photo in turn.photos]
    return shares[sub]


def query_text(dialogue: Dialogue, sub: int, speakers: Literal["sharer", "both"]) -> str:
    """What was said before the share, by the sharer or by both, joined by a space."""
    position, _ = shared_photo(dialogue, sub)
    sharer = dialogue.turns[position].speaker
    said = (
        turn.text.strip()
        for turn in dialogue.turns[:position]
        if speakers == "both" or turn.speaker == sharer
    )
    return " ".join(filter(None, said))


class RetrievalText:
    """The text side of the task, which systems with and without gradients share.

    The only text of a photo is its labels.
    """

    key_names = ("photo", "label_set")
    ragged: Mapping[str, Ragged] = {}
    deterministic = True

    def __init__(self, options: RetrievalOptions):
        self.options = options

    def query(self, dialogue: Dialogue, sub: int) -> str:
        """The text that asks."""
        return query_text(dialogue, sub, self.options.query)

    def labels(self, dialogue: Dialogue, sub: int) -> str:
        """The text of the photo that is looked for."""
        return self.options.label_separator.join(_labels(shared_photo(dialogue, sub)[1]))

    @property
    def identity(self) -> Mapping[str, Any]:
        names = ("query", "query_max_length", "label_max_length", "label_separator")
        return {"task": "retrieval", **{name: getattr(self.options, name) for name in names}}

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        return (Example(sub, {}, keys) for sub, _, _, keys in self.texts(dialogue))

    def texts(self, dialogue: Dialogue) -> Iterable[tuple[int, str, str, dict[str, str]]]:
        """(sub, query, labels, keys) of every example in the dialogue.

        Raises:
          SkipRecord: no photo is shared, nothing was said before, or the photo has no labels.
        """
        shares = [photo for turn in dialogue.turns for photo in turn.photos]
        if not shares:
            raise SkipRecord("no photo is shared")
        found = []
        for sub, photo in enumerate(shares):
            query, labels = self.query(dialogue, sub), self.labels(dialogue, sub)
            if query and labels:
                # "labels" is what a model reads, in its order; "label_set" what the photo shows.
                label_set = "\n".join(sorted(set(_labels(photo))))
                keys = {"photo": photo.id, "label_set": label_set, "labels": labels}
                found.append((sub, query, labels, keys))
        if not found:
            raise SkipRecord(
                "the photo has no labels" if query else "nothing was said before the photo"
            )
        return found

    def evaluator(self) -> RetrievalEvaluator:
        """R@1, R@5, R@10 among the distinct photos of the split."""
        return RetrievalEvaluator(ties=self.options.ties)

    def pool(self, split: Split) -> Pool:
        """The split's distinct photos."""
        return candidate_pool(split.index, candidate="photo", content="labels")

    def ranked(self, split: Split, scores: Iterable[np.ndarray], top: int) -> list[dict[str, Any]]:
        """The `top` photos for every example, as JSON values.

        Args:
          scores: for each example [U], against every distinct content of `self.pool(split)`.
        """
        pool, index = self.pool(split), split.index
        found = [
            (split.source[int(r)], int(s)) for r, s in zip(index.record, index.sub, strict=True)
        ]
        photos = [shared_photo(*found[i])[1] for i in pool.example_of]
        answers = []
        rows = zip(found, split.ids(), scores, strict=True)
        for i, ((dialogue, sub), name, row) in enumerate(rows):
            of_photo = row[pool.content_of]
            order = np.argsort(-of_photo, kind="stable")[:top]
            answers.append(
                {
                    "id": name,
                    "query": self.query(dialogue, sub),
                    "photo": photos[pool.gold[i]].id,
                    "labels": list(photos[pool.gold[i]].labels),
                    "above": int((of_photo > of_photo[pool.gold[i]]).sum()),
                    "top": [
                        {
                            "photo": photos[p].id,
                            "labels": list(photos[p].labels),
                            "score": round(float(of_photo[p]), 6),
                        }
                        for p in order
                    ],
                }
            )
        return answers


class RetrievalTask(RetrievalText):
    """A dual encoder learns the task. See `mmjax.tasks.base.Task` for the members."""

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        super().__init__(options)
        self.model = model
        self._tokenizer: tokenizers.Tokenizer | None = None
        if model.label_weights and (model.shared or not model.weights):
            raise UserError(
                "config.model.label_weights needs config.model.weights and shared=False."
            )
        self._weights = _open_weights(model.weights)
        self._label_weights = _open_weights(model.label_weights)

    # Data

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer: the pretrained folder's, or a SentencePiece model of the dialogues."""
        folder = os.fspath(folder)
        if self._weights is not None:
            self._tokenizer = tokenizers.load_tokenizer(self._weights.path)
            self._tokenizer.save(folder)
        else:
            texts = (text for d in _read(source) for text in self._all_texts(d))
            self._tokenizer = tokenizers.train_tokenizer(texts, self.model.vocab_size, folder)

    def load(self, folder: epath.PathLike) -> None:
        self._tokenizer = tokenizers.load_tokenizer(os.fspath(folder))

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**super().identity, "tokenizer": self._tokenizer.fingerprint}

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        pad = self._tokenizer.pad_id
        return {
            "query": Ragged(pad, buckets_up_to(self.options.query_max_length)),
            "photo": Ragged(pad, buckets_up_to(self.options.label_max_length)),
        }

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        for sub, query, labels, keys in self.texts(dialogue):
            lengths = {"query": len(self._query(query)), "photo": len(self._labels(labels))}
            yield Example(sub, lengths, keys)

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        return {
            "query": self._query(self.query(dialogue, sub)),
            "photo": self._labels(self.labels(dialogue, sub)),
        }

    def _query(self, text: str) -> np.ndarray:
        return self._clip(text, self.options.query_max_length, self.options.keep)

    def _labels(self, text: str) -> np.ndarray:
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
        query = self._transformer("text", model.text, self._weights)
        labels = query
        if not model.shared and (model.labels or self._label_weights):
            labels = self._transformer("labels", model.labels or "weights", self._label_weights)
        if model.shared and model.labels not in (None, model.text):
            raise UserError(
                f"config.model.shared=True needs one kind of tower, but text={model.text!r} and "
                f"labels={model.labels!r}."
            )
        longest = max(self.options.query_max_length, self.options.label_max_length)
        for tower in (query, labels):
            if longest > tower.position.max_positions:
                raise UserError(
                    f"config.task asks for {longest} tokens, but the encoder has "
                    f"{tower.position.max_positions} positions."
                )
        return DualEncoder(
            DualEncoderConfig(
                query=query,
                labels=labels,
                shared=model.shared,
                pooling=model.pooling,
                joint_dim=model.joint_dim,
                logit_scale=model.logit_scale,
                learn_scale=model.learn_scale,
            )
        )

    def objective(self) -> Objective:
        options = self.options
        loss = {
            "ce": SoftmaxCE(),
            "sh": SumHinge(options.margin),
            "mh": HardestHinge(options.margin),
        }[options.loss]
        return Objective(
            [
                PairTerm(
                    "retrieval",
                    rows="query",
                    columns="photo",
                    scale="scale",
                    loss=loss,
                    reduction=options.reduction,
                    key_columns=None if options.mask_equal_labels else (0,),
                )
            ]
        )

    def predictors(self) -> Mapping[str, Predictor]:
        module = self.module()

        def query(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch["query"], method=DualEncoder.embed_query)

        def photo(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch["photo"], method=DualEncoder.embed_photo)

        return {"query": Predictor(query, ("query",)), "photo": Predictor(photo, ("photo",))}

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        pool = self.pool(split)
        queries = predict("query", np.arange(len(split.index)))
        photos = predict("photo", pool.content)
        # One row at a time: the whole matrix would not fit for a large split.
        return self.ranked(split, (photos @ query for query in queries), top)

    def initial_params(self, target: Any) -> tuple[Any, Any]:
        if self._weights is None:
            return None, None
        params = jax.tree.map(lambda _: None, target)
        params["query_tower"], report = load_transformer(self._weights, target["query_tower"])
        reports = {"query_tower": report}
        if not self.model.shared:
            folder = self._label_weights or (None if self.model.labels else self._weights)
            if folder is not None:
                loaded = load_transformer(folder, target["label_tower"])
                params["label_tower"], reports["label_tower"] = loaded
        return params, reports

    def _transformer(self, key: str, preset: str, weights: Any) -> TransformerConfig:
        model = self.model
        if preset == "weights":
            if weights is None:
                needed = {"text": "weights", "labels": "label_weights"}[key]
                raise UserError(f'config.model.{key}="weights" needs config.model.{needed}.')
            config = transformer_config(weights)
        elif preset in PRESETS:
            config = PRESETS[preset]
            if weights is not None:
                found = transformer_config(weights)
                if (found.layers, found.width) != (config.layers, config.width):
                    raise UserError(
                        f"the weights in {weights.path} have {found.layers} layers of width "
                        f"{found.width}, the preset {preset!r} has {config.layers} of "
                        f'{config.width}: name another, or "weights" to take what the folder has.'
                    )
                config = found
            else:
                config = dataclasses.replace(config, vocab_size=self._tokenizer.vocab_size)
        else:
            raise UserError(
                f"config.model.{key}={preset!r} is no encoder: there are "
                f'{", ".join(PRESETS)} and "weights".'
            )
        if self._tokenizer.vocab_size > config.padded_vocab_size:
            raise UserError(
                f"the tokenizer has {self._tokenizer.vocab_size} tokens, the encoder's table "
                f"{config.vocab_size}: they do not belong together."
            )
        config = dataclasses.replace(
            config,
            dtype=model.dtype,
            unroll=model.unroll or config.layers,
            remat=model.remat,
        )
        if model.dropout is not None:
            attention = config.attention.copy(dropout=model.dropout)
            config = dataclasses.replace(config, dropout=model.dropout, attention=attention)
        return config


def _labels(photo: Photo) -> list[str]:
    """The labels that say something."""
    return [label.strip() for label in photo.labels if label.strip()]


def _read(source: Source) -> Iterable[Dialogue]:
    return (source[i] for i in range(len(source)))


def _open_weights(path: str | None) -> Any:
    return None if path is None else load_folder(path)


OPTIONS, MODEL_OPTIONS, TASK, TEXT = RetrievalOptions, ModelOptions, RetrievalTask, RetrievalText
