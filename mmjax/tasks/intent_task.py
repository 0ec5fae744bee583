"""What the forms of photo-sharing intent have in common: data, judging, answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from etils import epath

from mmjax.data import tokenizers
from mmjax.data.examples import Example
from mmjax.data.featurize import Ragged, buckets_up_to
from mmjax.data.perturb import INPUTS
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.evaluators import Predict, TurnEvaluator, turn_rows
from mmjax.observe.intent_page import write_intent_page
from mmjax.tasks.base import Task
from mmjax.tasks.intent_examples import PLACES, TOKENS, IntentExamples, IntentOptions, answer
from mmjax.tasks.text_classifier import ModelOptions
from mmjax.tasks.towers import check_vocabulary, fit_tokenizer, open_weights


class IntentTask(Task):
    """See `mmjax.tasks.base.Task` for the members; a form adds how the network learns.

    Attributes:
      reader: makes its examples.
    """

    key_names = ()
    inputs = INPUTS.keys() - {"images", "labels"}
    reader: type[IntentExamples]
    _rows: ClassVar = {"predictor": "share", "target": "share", "places": "label"}
    cached = (*TOKENS, *PLACES)

    def __init__(self, options: IntentOptions, model: ModelOptions):
        self.options, self.model = options, model
        self._weights = open_weights(model.weights)
        self._examples: IntentExamples | None = None
        if self._weights is not None:
            # A folder that does not fit is told of now, and not once the data are prepared.
            self.load(self._weights.path)
            self.module()

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        return {**self.__dict__, "_weights": None}

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self._weights, folder)

    # Data

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer: the pretrained folder's, or a SentencePiece model of the dialogues."""
        dialogues = (source[i] for i in range(len(source)))
        texts = (turn.text for dialogue in dialogues for turn in dialogue.turns if turn.text)
        fit_tokenizer(self._weights, texts, self.model.vocab_size, folder)
        self.load(folder)

    def load(self, folder: epath.PathLike) -> None:
        self._examples = self.reader(self.options, tokenizers.load_tokenizer(os.fspath(folder)))

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "task": "intent",
            "reader": self.reader.__name__,
            "tokenizer": self._examples.tokenizer.fingerprint,
            "prefix": self.options.prefix,
            "max_length": self.options.max_length,
            "format": 2,  # raised where the same options make other examples
        }

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        pads = {"text": self._examples.tokenizer.pad_id}
        tokens = buckets_up_to(self.options.max_length, per_octave=4)
        places = (1,) if self.options.prefix == "separate" else buckets_up_to(self.most_places)
        return {
            **{name: Ragged(pads.get(name, 0), tokens) for name in self._examples.token_features},
            **{name: Ragged(0, places) for name in self._examples.place_features},
        }

    @property
    def most_places(self) -> int:
        """Turns that one example may score."""
        return 1 if self.options.prefix == "separate" else self.options.max_length - 1

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        return self._examples.examples(dialogue)

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        return self._examples.features(dialogue, sub)

    # Judging

    def evaluator(self) -> TurnEvaluator:
        return TurnEvaluator(**self._rows)

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        """Every dialogue with the probability after each of its turns; `top` says nothing here."""
        rows = turn_rows(split.index, predict, **self._rows)
        records, first = np.unique(rows.record, return_index=True)
        found = []
        for record, probabilities in zip(
            records, np.split(rows.probability, first[1:]), strict=True
        ):
            dialogue = split.source[int(record)]
            found.append(answer(dialogue, dialogue.id, probabilities))
        return found

    def page(
        self, path: epath.PathLike, split: Split, answers: list[dict[str, Any]], title: str
    ) -> None:
        """An HTML page of the answers, see `mmjax.observe.intent_page`."""
        write_intent_page(path, answers, title=title, about={"split": split.source.name})
