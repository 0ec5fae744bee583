"""Which response goes with what was said before it? Learned by TransResNet (JDDC 2.1, 4.1)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from mmjax.config import judging, limited
from mmjax.data import tokenizers
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.featurize import Lazy, Ragged, buckets_up_to
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.evaluators import Predict
from mmjax.evaluators_hits import HitsEvaluator
from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import SoftmaxCE
from mmjax.metrics.retrieval import ranking_from_embeddings
from mmjax.models.trans_resnet import TransResNet
from mmjax.observe.answers_page import write_answers_page
from mmjax.tasks.base import Predictor, Task
from mmjax.tasks.context_reader import IMAGE, ContextOptions, ContextReader
from mmjax.tasks.generation_answers import told_turns
from mmjax.tasks.response import Response, ResponseOptions
from mmjax.tasks.towers import check_vocabulary
from mmjax.tasks.trans_resnet_model import TransResNetModel, TransResNetOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingOptions(ContextOptions):
    """Beside what is read of a context:

    Attributes:
      role, answers: whose responses, see `ResponseOptions`.
      response_max_length: tokens, with [CLS] and [SEP]; of a longer one the start is kept.
      mask_equal_responses: responses with the same text are no negatives of each other.
      pool: candidates of the figure "hits@1/POOL", the right one and others drawn once.
      ties: how equal scores count in hits@k: "expected" or "pessimistic".
    """

    role: str | None = None
    answers: Literal["every", "last"] = "every"
    response_max_length: int = limited(64, low=3)
    mask_equal_responses: bool = True
    pool: int = judging(100, low=2)
    ties: Literal["expected", "pessimistic"] = judging("expected")


class RankingExamples(Task):
    """The examples, which every network has in common that ranks responses or contexts.

    An example's `sub` is the number of the turn that answers.
    """

    boxes = False
    cached = ("context", "response")

    def __init__(self, options: RankingOptions):
        self.options = options
        self._goal = Response(ResponseOptions(role=options.role, answers=options.answers))
        self._reader: ContextReader | None = None

    @property
    def photos(self) -> bool:
        return self.options.images

    @property
    def role(self) -> str | None:
        return self._goal.role

    @property
    def inputs(self) -> frozenset[str]:
        """Photos alone: with other texts in a dialogue, other responses would be right."""
        return frozenset({"images"} if self.photos else ())

    @property
    def key_names(self) -> tuple[str, ...]:
        return ("response",) if self.options.mask_equal_responses else ()

    def load(self, folder: epath.PathLike) -> None:
        tokenizer = tokenizers.load_tokenizer(os.fspath(folder))
        self._reader = ContextReader(self.options, tokenizer)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "task": "response_ranking",
            "goal": dict(self._goal.identity),
            **self._reader.identity,
            "response_max_length": self.options.response_max_length,
        }

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        pad = self._reader.tokenizer.pad_id
        responses = buckets_up_to(self.options.response_max_length, per_octave=2)
        return {"context": self._reader.ragged, "response": Ragged(pad, responses)}

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        """Raises:
        SkipRecord: nobody answers, or to nothing.
        """
        turns = self._goal.turns(dialogue)
        asked = [t for t in turns if any(not said.silent for said in dialogue.turns[:t])]
        if not asked:
            raise SkipRecord("nothing is said before")
        for turn in asked:
            lengths = {
                "context": len(self._reader.tokens(dialogue, turn)[0]),
                "response": len(self._response(dialogue, turn)),
            }
            yield Example(turn, lengths, {"response": self.response(dialogue, turn)})

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        return Lazy(
            context=lambda: self._reader.tokens(dialogue, sub)[0],
            response=lambda: self._response(dialogue, sub),
            **self._reader.image(dialogue, sub, rng),
        )

    @property
    def context_features(self) -> tuple[str, ...]:
        """What of a batch tells the context."""
        return ("context", *(IMAGE[:2] if self.photos else ()))

    def references(self, dialogue: Dialogue, turn: int) -> tuple[str, ...]:
        """What people said there."""
        return tuple(text.strip() for text in self._goal.references(dialogue.turns[turn]))

    def response(self, dialogue: Dialogue, turn: int) -> str:
        """The first of these, which is learned."""
        return self.references(dialogue, turn)[0]

    def told(
        self, split: Split, example: int, best: Sequence[tuple[str, float]], **more: Any
    ) -> dict[str, Any]:
        """The answer to an example as JSON values.

        Args:
          best: responses and their scores, the best first.
        """
        dialogue = split.source[int(split.index.record[example])]
        turn = int(split.index.sub[example])
        return {
            "dialogue": dialogue.id,
            "turns": told_turns(dialogue.turns[:turn]),
            "references": list(self.references(dialogue, turn)),
            "answer": best[0][0],
            **more,
            "top": [{"response": text, "score": float(f"{score:.6g}")} for text, score in best],
        }

    def page(
        self, path: epath.PathLike, split: Split, answers: list[dict[str, Any]], title: str
    ) -> None:
        """An HTML page of the answers, see `mmjax.observe.answers_page`."""
        shown = [
            {**a, "answers": [{"name": title, "text": a["answer"], "notes": []}]} for a in answers
        ]
        write_answers_page(path, shown, title=title, about={"split": split.source.name})

    def _response(self, dialogue: Dialogue, turn: int) -> np.ndarray:
        t, text = self._reader.tokenizer, self.response(dialogue, turn)
        longest = self.options.response_max_length
        return tokenizers.clip(t.encode(text), longest, t.cls_id, t.sep_id, keep="start")


class ResponseRankingTask(RankingExamples):
    """TransResNet learns it. See `mmjax.tasks.base.Task` for the members."""

    def __init__(self, options: RankingOptions, model: TransResNetOptions):
        super().__init__(options)
        self.model = model
        self._model = TransResNetModel(options, model)
        if self._model.weights is not None:
            # A folder that does not fit is told of now, and not once the data are prepared.
            self.load(self._model.weights.path)
            self.module()

    @property
    def independent(self) -> bool:
        """Not with photos, whose features are normalised by the statistics of the batch."""
        return not self.photos

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        check_vocabulary(self._model.weights, folder)

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """The tokenizer: the pretrained folder's, or one of the training dialogues."""
        dialogues = (source[i] for i in range(len(source)))
        texts = (turn.text for dialogue in dialogues for turn in dialogue.turns if turn.text)
        self._model.fit_tokenizer(texts, folder)
        self.load(folder)

    # Learning

    def module(self) -> TransResNet:
        longest = max(self.options.context_max_length, self.options.response_max_length)
        return TransResNet(self._model.config(self._reader.tokenizer, longest))

    def objective(self) -> Objective:
        return Objective(
            [
                PairTerm(
                    "responses",
                    rows="context",
                    columns="response",
                    scale="scale",
                    loss=SoftmaxCE(both=False),
                )
            ]
        )

    def predictors(self) -> Mapping[str, Predictor]:
        """ "context" and "response": vectors [B, D], whose dot product is the score."""
        module = self.module()

        def context(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch, method="embed_context")

        def response(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch, method="embed_response")

        return {
            "context": Predictor(context, self.context_features),
            "response": Predictor(response, ("response",)),
        }

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        return self._model.initial_variables(target)

    # Judging

    def evaluator(self) -> HitsEvaluator:
        return HitsEvaluator(self.references, pool=self.options.pool, ties=self.options.ties)

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        """The best of the split's own responses for every example, which the right one is among.

        "above" and "equal" count those with a higher score than that, and with the same.
        """
        index = split.index
        _, first, gold = np.unique(index.keys["response"], return_index=True, return_inverse=True)
        contexts = predict("context", np.arange(len(index)))
        ranking = ranking_from_embeddings(contexts, predict("response", first), gold, top)
        texts = [
            self.response(split.source[int(index.record[i])], int(index.sub[i])) for i in first
        ]
        counts = zip(ranking.counts.greater.tolist(), ranking.counts.equal.tolist(), strict=True)
        return [
            {"id": name}
            | self.told(
                split,
                i,
                [(texts[k], s) for k, s in zip(ranking.top[i], ranking.scores[i], strict=True)],
                above=above,
                equal=equal,
            )
            for i, (name, (above, equal)) in enumerate(zip(split.ids(), counts, strict=True))
        ]


OPTIONS, MODEL_OPTIONS, TASK = RankingOptions, TransResNetOptions, ResponseRankingTask
