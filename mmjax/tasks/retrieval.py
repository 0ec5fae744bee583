"""Photo retrieval: which photo does a dialogue lead up to? (PhotoChat, task B)

A dual encoder learns it, or VSE++, or SCAN. What an example is, and how answers look, is in
`retrieval_examples`; what a kind of model brings, in `retrieval_model`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from mmjax.data import tokenizers
from mmjax.data.afterwards import AfterwardsSource
from mmjax.data.boxes import box_regions
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.featurize import Lazy, Ragged, buckets_up_to
from mmjax.data.images import WHOLE, BadImageError, Part, PhotoReader, View
from mmjax.data.regions import BadRegionsError, read_regions
from mmjax.data.schema import Dialogue, Photo
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Predict, RetrievalEvaluator
from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge
from mmjax.metrics.retrieval import Ranking, ranking_from_embeddings
from mmjax.pretrained.exported import ModelFolder
from mmjax.tasks.base import Predictor, Task
from mmjax.tasks.retrieval_dual_encoder import DualEncoderModel
from mmjax.tasks.retrieval_examples import (
    ExampleText,
    RetrievalOptions,
    RetrievalText,
    query_text,
    shared_photo,
)
from mmjax.tasks.retrieval_model import ModelOptions, RetrievalModel, ScanOptions
from mmjax.tasks.retrieval_scan import ScanModel
from mmjax.tasks.retrieval_vse import VseModel

MODELS: dict[str, type[RetrievalModel]] = {
    "dual_encoder": DualEncoderModel,
    "vsepp": VseModel,
    "scan": ScanModel,
}


class RetrievalTask(RetrievalText, Task):
    """One of `MODELS` learns the task. See `mmjax.tasks.base.Task` for the members."""

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        super().__init__(options)
        self._model = MODELS[model.kind](options, model)
        self._tokenizer: tokenizers.Tokenizer | None = None
        self._read_photo = PhotoReader(options.image)

    @property
    def independent(self) -> bool:
        return self._model.independent

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        self._model.check_vocabulary(folder)

    def check_batch(self, size: int) -> None:
        self._model.check_batch(size)

    # Data

    def learn_from(self, source: Source) -> Source:
        if not self.options.after:
            return source
        return AfterwardsSource(source, one_voice=self.options.query == "sharer")

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer."""
        texts = (text for d in _read(source) for text in self._all_texts(d))
        queries = (query for d in _read(source) for query in self._queries(d))
        self._model.fit_tokenizer(texts, queries, folder)
        self.load(folder)

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
            view = functools.partial(self._view, photo, rng)
            if self.boxes:
                view = functools.cache(view)  # one draw of the part for the pixels and the boxes
                seen = functools.cache(lambda: self._boxes(photo, view().part))
                make["boxes"] = lambda: seen()[0]
                make["box_mask"] = lambda: seen()[1]
            make["image"] = lambda: view().pixels
            make["has_image"] = lambda: np.bool_(photo.file is not None)
            make["mirror"] = lambda: np.bool_(mirror)
        if self.regions:
            found = functools.cache(lambda: self._regions(shared_photo(dialogue, sub)[1]))
            make["regions"] = lambda: found()[0]
            make["region_mask"] = lambda: found()[1]
        return Lazy(**make)

    def _view(self, photo: Photo, rng: np.random.Generator | None) -> View:
        if photo.file is None:
            size = self.options.image.size
            return View(np.zeros((size, size, 3), np.uint8), WHOLE)
        try:
            return self._read_photo(photo.file, rng)
        except BadImageError as error:  # each was read when it was prepared
            raise UserError(
                f"photo {photo.id} cannot be read any more ({error}): delete the prepared data."
            ) from error

    def _boxes(self, photo: Photo, part: Part) -> tuple[np.ndarray, np.ndarray]:
        return box_regions(self.boxes_of(photo), part, self.options.regions.count)

    def _regions(self, photo: Photo) -> tuple[np.ndarray, np.ndarray]:
        options = self.options.regions
        if photo.regions is None:
            nothing = np.zeros((options.count, options.dim), np.float32)
            return nothing, np.zeros(options.count, bool)
        try:
            return read_regions(photo.regions, options)
        except BadRegionsError as error:
            raise UserError(
                f"the features of photo {photo.id}'s regions cannot be used ({error}): mend them, "
                "or set config.task.regions to what they are."
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

    def _queries(self, dialogue: Dialogue) -> Iterable[str]:
        with contextlib.suppress(SkipRecord):
            yield from (query for _, query, _, _ in self.texts(dialogue))

    # Learning

    def module(self) -> Any:
        return self._model.module(self._tokenizer)

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
                    score=self._model.score,
                    tile=self._model.tile,
                )
            ]
        )

    def predictors(self) -> Mapping[str, Predictor]:
        """ "query" and "photo": what the model's score reads."""
        module = self.module()
        features = {
            "photo": self.reads,
            "image": self.photos,
            "has_image": self.photos,
            "boxes": self.boxes,
            "box_mask": self.boxes,
            "regions": self.regions,
            "region_mask": self.regions,
        }

        def query(variables: Any, batch: Any) -> Any:
            return module.apply(variables, batch, method="embed_query")

        def photo(variables: Any, batch: Any) -> Any:
            return module.apply(variables, batch, method="embed_photo")

        seen = tuple(name for name, wanted in features.items() if wanted)
        return {"query": Predictor(query, ("query",)), "photo": Predictor(photo, seen)}

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        return self._model.exports(variables, self._tokenizer)

    def evaluator(self) -> RetrievalEvaluator:
        return dataclasses.replace(
            super().evaluator(), score=self._model.score, block=self._model.block
        )

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        def answer(part: Split, numbers: np.ndarray) -> list[dict[str, Any]]:
            def of_part(name: str, examples: np.ndarray) -> Any:
                return predict(name, numbers[examples])

            everything = np.arange(len(numbers))
            return self.told(part, self._ranking(part, of_part, top, everything))

        return self.in_rounds(split, answer)

    def sample(self, split: Split, predict: Predict) -> np.ndarray | None:
        # The same dialogues each time, spread over the split, among all of its photos.
        some = np.unique(np.linspace(0, len(split.index) - 1, 6).astype(np.int64))
        return self.sheet(split, self.told(split, self._ranking(split, predict, 5, some), some))

    def _ranking(self, split: Split, predict: Predict, k: int, some: np.ndarray) -> Ranking:
        """The k best of all photos of the split for some of its examples."""
        pool = self.pool(split)
        queries = predict("query", np.arange(len(split.index)))
        photos = predict("photo", pool.content)
        return ranking_from_embeddings(
            jax.tree.map(lambda x: x[some], queries),
            jax.tree.map(lambda x: x[pool.content_of], photos),
            pool.gold[some],
            k,
            score=self._model.score,
            block=self._model.block,
        )

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        return self._model.initial_variables(target)


def _read(source: Source) -> Iterable[Dialogue]:
    return (source[i] for i in range(len(source)))


OPTIONS, MODEL_OPTIONS, TASK, TEXT = RetrievalOptions, ModelOptions, RetrievalTask, RetrievalText

__all__ = [
    "ModelOptions",
    "RetrievalOptions",
    "RetrievalTask",
    "ScanOptions",
    "query_text",
    "shared_photo",
]
