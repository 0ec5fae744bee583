"""A closer look at the photos that a retriever proposes (PhotoChat, task B, in two stages).

An encoder reads the dialogue and the labels of one photo together, `[CLS] dialogue [SEP] labels
[SEP]`, and says how well they fit (a cross-encoder; Nogueira and Cho, 2019: "Passage re-ranking
with BERT", 3.2). That is too dear for all photos, so another run proposes the best
(`mmjax.data.candidates`); what it did not propose keeps its place below them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from mmjax.config import judging, limited
from mmjax.data import tokenizers
from mmjax.data.candidates import CandidateSource, candidates_file
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.featurize import Ragged, buckets_up_to
from mmjax.data.index import ExampleIndex, build_index
from mmjax.data.perturb import INPUTS
from mmjax.data.schema import Dialogue, Photo, Proposal, labels_of
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Predict, RerankEvaluator, reranked
from mmjax.losses.objective import Objective
from mmjax.metrics.retrieval import Ranking
from mmjax.models.turn_classifier import TurnClassifier
from mmjax.tasks.base import Predictor, Task
from mmjax.tasks.retrieval_examples import RetrievalOptions, RetrievalText, shared_photo
from mmjax.tasks.text_classifier import (
    ModelOptions,
    classifier_objective,
    load_text_classifier,
    text_classifier,
)
from mmjax.tasks.towers import check_vocabulary, fit_tokenizer, open_weights

# An example's `sub` is the number of its share turn times this, plus the place of the candidate.
STRIDE = 1 << 16


@dataclasses.dataclass(frozen=True)
class RerankOptions:
    """What is read and what is learned.

    Attributes:
      candidates: "run://DIR" of the run that proposes, or the folder with its predictions on every
        split that is used.
      top: how many of its candidates are looked at in evaluation, and drawn from in training.
      negatives: for each share turn in training whose own photo is among the candidates, drawn
        once from them.
      query, label_separator: as in `RetrievalOptions`.
      max_length, label_max_length: tokens of a pair, with [CLS] and both [SEP], and of its labels.
        Of a longer dialogue the end is kept, of longer labels the start.
      positive_weight: of the right pairs in the loss, where the others have 1.
      ties: how equal scores count in R@K: "expected" or "pessimistic".
    """

    candidates: str = ""
    top: int = limited(50, low=1, high=STRIDE - 1)
    negatives: int = limited(7, low=1)
    query: Literal["sharer", "both", "marked"] = "sharer"
    label_separator: str = ", "
    max_length: int = limited(128, low=5)
    label_max_length: int = limited(32, low=1)
    positive_weight: float = limited(1.0, above=0)
    ties: Literal["expected", "pessimistic"] = judging("expected")


class RerankTask(Task):
    """A cross-encoder. See `mmjax.tasks.base.Task` for the members."""

    key_names = ()
    inputs = frozenset(INPUTS) - {"images"}
    cached = ("text", "speaker", "place", "label")

    def __init__(self, options: RerankOptions, model: ModelOptions):
        self.options, self.model = options, model
        self._text = RetrievalText(
            RetrievalOptions(
                query=options.query, label_separator=options.label_separator, ties=options.ties
            )
        )
        self._weights = open_weights(model.weights)
        self._tokenizer: tokenizers.Tokenizer | None = None
        if not options.candidates:
            raise UserError(
                "config.task.candidates names no run: give one that proposes photos, such as "
                "--config.task.candidates=run://runs/de_label."
            )
        if options.label_max_length > options.max_length - 4:
            raise UserError(
                f"config.task.label_max_length={options.label_max_length} leaves no room for the "
                f"dialogue in config.task.max_length={options.max_length}."
            )

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        return {**self.__dict__, "_weights": None}

    @property
    def runs(self) -> Mapping[str, str]:
        return {"candidates": self.options.candidates}

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self._weights, folder)

    # Data

    def read_with(self, source: Source, split: str) -> Source:
        file = candidates_file(self.options.candidates, split)
        negatives = self.options.negatives if split == "train" else None
        return CandidateSource(source, file, top=self.options.top, negatives=negatives)

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer: the pretrained folder's, or a SentencePiece model of the dialogues."""
        dialogues = (source[i] for i in range(len(source)))
        texts = (text for dialogue in dialogues for text in self._all_texts(dialogue))
        fit_tokenizer(self._weights, texts, self.model.vocab_size, folder)

    def load(self, folder: epath.PathLike) -> None:
        self._tokenizer = tokenizers.load_tokenizer(os.fspath(folder))

    @property
    def identity(self) -> Mapping[str, Any]:
        names = ("query", "label_separator", "max_length", "label_max_length")
        return {
            "task": "rerank",
            "tokenizer": self._tokenizer.fingerprint,
            **{name: getattr(self.options, name) for name in names},
        }

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        tokens = buckets_up_to(self.options.max_length, per_octave=4)
        return {
            "text": Ragged(self._tokenizer.pad_id, tokens),
            "speaker": Ragged(0, tokens),
            "place": Ragged(0, (1,)),
            "label": Ragged(0, (1,)),
        }

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        found = []
        for share, proposal in enumerate(dialogue.proposals):
            if proposal is None:
                continue
            shared = shared_photo(dialogue, share)[1]
            for place, photo in enumerate(proposal.photos):
                tokens = sum(map(len, self._pair(dialogue, share, photo))) + 3
                found.append(
                    Example(
                        share * STRIDE + place,
                        {"text": tokens, "speaker": tokens, "place": 1, "label": 1},
                        {"photo": shared.id},
                        {
                            "share": share,
                            "right": int(place == proposal.right),
                            "alike": proposal.alike[place],
                            "above": proposal.above,
                            "equal": proposal.equal,
                        },
                    )
                )
        if not found and not dialogue.proposals:
            raise SkipRecord("no photo was proposed")
        return found

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        share, place = divmod(sub, STRIDE)
        proposal: Proposal = dialogue.proposals[share]
        query, labels = self._pair(dialogue, share, proposal.photos[place])
        t = self._tokenizer
        ids = np.concatenate([[t.cls_id], query, [t.sep_id], labels, [t.sep_id]])
        return {
            "text": ids.astype(np.int32),
            "speaker": np.repeat(np.arange(2, dtype=np.int32), [len(query) + 2, len(labels) + 1]),
            "place": np.zeros(1, np.int32),
            "label": np.array([place == proposal.right], np.int32),
            "proposed": np.float32(proposal.scores[place]),
        }

    def _pair(self, dialogue: Dialogue, share: int, photo: Photo) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the dialogue and of the labels, as many as there is room for."""
        labels = self._tokenizer.encode(self._labels(photo))[: self.options.label_max_length]
        room = self.options.max_length - 3 - len(labels)
        query = self._tokenizer.encode(self._text.query(dialogue, share))
        return query[max(0, len(query) - room) :], labels

    def _labels(self, photo: Photo) -> str:
        return self.options.label_separator.join(labels_of(photo))

    def _all_texts(self, dialogue: Dialogue) -> Iterable[str]:
        yield from (turn.text for turn in dialogue.turns if turn.text)
        yield from (self._labels(photo) for turn in dialogue.turns for photo in turn.photos)

    # Learning

    def module(self) -> TurnClassifier:
        return text_classifier(
            self.model, self._weights, self._tokenizer, max_length=self.options.max_length
        )

    def objective(self) -> Objective:
        return classifier_objective("rerank", self.options.positive_weight)

    def predictors(self) -> Mapping[str, Predictor]:
        """Of each pair, [B]: "fit", log-odds of the network, and "proposed", the other's score."""
        module = self.module()

        def fit(variables: Any, batch: Any) -> jax.Array:
            logits = module.apply(variables, batch, train=False)["logits"]  # [B, 1, 2]
            return logits[:, 0, 1] - logits[:, 0, 0]

        def proposed(variables: Any, batch: Any) -> jax.Array:
            return batch["proposed"]

        return {
            "fit": Predictor(fit, ("text", "speaker", "place")),
            "proposed": Predictor(proposed, ("proposed",)),
        }

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        found, reports = super().initial_variables(target)
        return found, {**reports, **load_text_classifier(self._weights, found, target)}

    # Judging

    def evaluator(self) -> RerankEvaluator:
        return RerankEvaluator(ties=self.options.ties)

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        """As a retriever's, of the candidates that were looked at, by the network's score."""
        found = reranked(split.index, predict("fit", np.arange(len(split.index))))
        asked = self._asked(split)
        pool = self._pool(asked)
        best = np.full((len(found.first), top), -1, np.int64)
        scores = np.zeros((len(found.first), top), np.float32)
        own = np.zeros(len(found.first))
        for row, (first, end) in enumerate(zip(found.first, found.end, strict=True)):
            photos, fit = self._proposed(split, first), found.score[first:end]
            order = np.argsort(-fit, kind="stable")[:top]
            best[row, : len(order)] = [pool[photos[k].id] for k in order]
            scores[row, : len(order)] = fit[order]
            right = np.flatnonzero(split.index.targets["right"][first:end])
            own[row] = fit[right[0]] if len(right) else fit.min()
        number = {pair: k for k, pair in enumerate(_pairs(asked.index.record, asked.index.sub))}
        share = split.index.targets["share"][found.first]
        rows = [number[pair] for pair in _pairs(split.index.record[found.first], share)]
        return self._text.told(asked, Ranking(found.counts, own, best, scores), rows)

    def page(
        self, path: epath.PathLike, split: Split, answers: list[dict[str, Any]], title: str
    ) -> None:
        self._text.page(path, self._asked(split), answers, title)

    def _asked(self, split: Split) -> Split:
        """The split as retrieval sees it: an example per share turn.

        Every one is there: a run that sees pixels proposes photos without labels too, and one that
        reads both speakers proposes where the sharer has said nothing.
        """
        source = split.source
        shares = [(i, sub) for i in range(len(source)) for sub in range(len(source[i].proposals))]
        record, sub = np.array(shares, np.int64).T
        every = ExampleIndex(record, sub.astype(np.int32), {}, {}, {})
        return Split(source, build_index(self._text, source, before=every))

    def _pool(self, asked: Split) -> dict[str, int]:
        """Position of each photo among the candidates."""
        record, sub = asked.index.record, asked.index.sub
        shared = (
            shared_photo(asked.source[int(record[i])], int(sub[i]))[1]
            for i in self._text.pool(asked).example_of
        )
        return {photo.id: position for position, photo in enumerate(shared)}

    def _proposed(self, split: Split, example: int) -> tuple[Photo, ...]:
        dialogue = split.source[int(split.index.record[example])]
        return dialogue.proposals[int(split.index.targets["share"][example])].photos


def _pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(a.tolist(), b.tolist(), strict=True))


OPTIONS, MODEL_OPTIONS, TASK = RerankOptions, ModelOptions, RerankTask
