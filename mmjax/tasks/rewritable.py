"""Can a query be rewritten so that nobody needs what was said before? (JDDC 2.1, 4.2)

An encoder with a linear layer on [CLS] says yes or no, or TransResNet with one on the vector of the
context.
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
from mmjax.data.featurize import Lazy, Ragged
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Predict
from mmjax.evaluators_decisions import DecisionEvaluator
from mmjax.losses.objective import Objective
from mmjax.models.trans_resnet import ContextClassifier
from mmjax.models.turn_classifier import TurnClassifier
from mmjax.tasks.base import Predictor, Task
from mmjax.tasks.context_reader import IMAGE, ContextOptions, ContextReader
from mmjax.tasks.generation_answers import told_turns
from mmjax.tasks.text_classifier import (
    classifier_objective,
    load_text_classifier,
    text_classifier,
)
from mmjax.tasks.towers import check_vocabulary
from mmjax.tasks.trans_resnet_model import TransResNetModel, TransResNetOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewritableOptions(ContextOptions):
    """Beside what is read, the query with what was said before:

    Attributes:
      positive_weight: of the queries that can be rewritten in the loss, where the others have 1.
    """

    positive_weight: float = limited(1.0, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewritableModelOptions(TransResNetOptions):
    """TransResNet's options, of which an encoder has those of its text.

    Attributes:
      kind: "encoder", which is told who says what, or "trans_resnet".
    """

    kind: Literal["encoder", "trans_resnet"] = "encoder"


class RewritableTask(Task):
    """What both networks have in common. See `mmjax.tasks.base.Task` for the members.

    An example's `sub` is the number of the turn that may be rewritten.
    """

    boxes = False
    key_names = ()
    cached = ("context", "text", "speaker", "place", "label")
    text = "context"  # the feature of what is read

    def __init__(self, options: RewritableOptions, model: RewritableModelOptions):
        self.options, self.model = options, model
        self._model = TransResNetModel(options, model)
        self._reader: ContextReader | None = None
        if self._model.weights is not None:
            # A folder that does not fit is told of now, and not once the data are prepared.
            self.load(self._model.weights.path)
            self.module()

    @property
    def photos(self) -> bool:
        return self.options.images

    @property
    def independent(self) -> bool:
        """Not with photos, whose features are normalised by the statistics of the batch."""
        return not self.photos

    @property
    def inputs(self) -> frozenset[str]:
        """Photos alone: with other texts in a dialogue, other answers would be right."""
        return frozenset({"images"} if self.photos else ())

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self._model.weights, folder)

    # Data

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer: the pretrained folder's, or one of the training dialogues."""
        dialogues = (source[i] for i in range(len(source)))
        texts = (turn.text for dialogue in dialogues for turn in dialogue.turns if turn.text)
        self._model.fit_tokenizer(texts, folder)
        self.load(folder)

    def load(self, folder: epath.PathLike) -> None:
        tokenizer = tokenizers.load_tokenizer(os.fspath(folder))
        self._reader = ContextReader(self.options, tokenizer)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"task": "rewritable", "feature": self.text, **self._reader.identity}

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        return {self.text: self._reader.ragged, "label": Ragged(0, (1,))}

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        """Raises:
        SkipRecord: nobody was asked, or of queries that say nothing.
        """
        asked = [k for k, turn in enumerate(dialogue.turns) if turn.rewrites is not None]
        if not asked:
            raise SkipRecord("of no turn is it known whether it can be rewritten")
        said = [k for k in asked if not dialogue.turns[k].silent]
        if not said:
            raise SkipRecord("the query is empty")
        for turn in said:
            tokens = len(self._reader.tokens(dialogue, turn + 1)[0])
            lengths = {name: 1 if name in ("label", "place") else tokens for name in self.ragged}
            yield Example(turn, lengths, {}, {"rewritable": _label(dialogue, turn)})

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        return Lazy(
            label=lambda: np.array([_label(dialogue, sub)], np.int32),
            **self._read(dialogue, sub + 1, rng),
        )

    def _read(self, dialogue: Dialogue, end: int, rng: np.random.Generator | None) -> Any:
        return {
            self.text: lambda: self._reader.tokens(dialogue, end)[0],
            **self._reader.image(dialogue, end, rng),
        }

    # Learning

    def module(self) -> Any:
        config = self._model.config(self._reader.tokenizer, self.options.context_max_length)
        return ContextClassifier(config)

    def objective(self) -> Objective:
        return classifier_objective("rewritable", self.options.positive_weight)

    @property
    def _features(self) -> tuple[str, ...]:
        return (self.text, *(IMAGE[:2] if self.photos else ()))

    def predictors(self) -> Mapping[str, Predictor]:
        """Of "rewritable": log-odds that it can be, [B]."""
        module = self.module()

        def rewritable(variables: Any, batch: Any) -> jax.Array:
            logits = module.apply(variables, batch, train=False)["logits"]  # [B, 1, 2]
            return logits[:, 0, 1] - logits[:, 0, 0]

        return {"rewritable": Predictor(rewritable, self._features)}

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        return self._model.initial_variables(target)

    # Judging

    def evaluator(self) -> DecisionEvaluator:
        return DecisionEvaluator("rewritable", "rewritable")

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        """Every query with the probability that it can be rewritten; `top` says nothing here."""
        index = split.index
        odds = predict("rewritable", np.arange(len(index))).astype(np.float64)
        found = []
        for name, record, turn, value in zip(
            split.ids(), index.record, index.sub, odds, strict=True
        ):
            dialogue = split.source[int(record)]
            found.append(
                {
                    "id": name,
                    "turns": told_turns(dialogue.turns[: int(turn) + 1]),
                    "rewritable": bool(_label(dialogue, int(turn))),
                    "probability": float(f"{np.exp(-np.logaddexp(0, -value)):.6g}"),
                }
            )
        return found


class EncoderRewritableTask(RewritableTask):
    """Logits are read from [CLS]; segments are speakers."""

    text = "text"

    def __init__(self, options: RewritableOptions, model: RewritableModelOptions):
        if options.images:
            raise UserError(
                "config.task.images=True needs a network that sees: set "
                "config.model.kind=trans_resnet."
            )
        super().__init__(options, model)

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        tokens = self._reader.ragged
        speakers = dataclasses.replace(tokens, pad=0)
        return {**super().ragged, "speaker": speakers, "place": Ragged(0, (1,))}

    def _read(self, dialogue: Dialogue, end: int, rng: np.random.Generator | None) -> Any:
        return {
            "text": lambda: self._reader.tokens(dialogue, end)[0],
            "speaker": lambda: self._reader.tokens(dialogue, end)[1],
            "place": lambda: np.zeros(1, np.int32),
        }

    @property
    def _features(self) -> tuple[str, ...]:
        return ("text", "speaker", "place")

    def module(self) -> TurnClassifier:
        return text_classifier(
            self.model,
            self._model.weights,
            self._reader.tokenizer,
            max_length=self.options.context_max_length,
            length_key="context_max_length",
            hidden=False,
        )

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        found = jax.tree.map(lambda _: None, target)
        return found, load_text_classifier(self._model.weights, found, target)


def rewritable_task(options: RewritableOptions, model: RewritableModelOptions) -> RewritableTask:
    """The task in the form that the network needs."""
    kinds = {"encoder": EncoderRewritableTask, "trans_resnet": RewritableTask}
    return kinds[model.kind](options, model)


def _label(dialogue: Dialogue, turn: int) -> int:
    return int(bool(dialogue.turns[turn].rewrites))


OPTIONS, MODEL_OPTIONS, TASK = RewritableOptions, RewritableModelOptions, rewritable_task
