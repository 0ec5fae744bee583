"""How written texts are judged: against what people wrote, and by how likely that was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from mmjax.data.index import ExampleIndex
from mmjax.data.perturb import OTHER_LABELS
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import Source
from mmjax.evaluators import Evaluation, Evaluator, Predict
from mmjax.evaluators_slots import SLOT_FIGURES, find_slots, with_slots
from mmjax.metrics.bootstrap import Sums
from mmjax.metrics.generation import GenerationMetric, answers


@dataclasses.dataclass(frozen=True)
class GenerationEvaluator(Evaluator):
    """Figures of the predictor "written", ids [N, T], and the perplexity of people's texts, from
    "log_p", [N, 2]: the log-probability of each, and its number of tokens.

    The perplexity is exp(-sum of log-probabilities / tokens) over all examples, ends included.
    What is judged of slots: see `mmjax.evaluators_slots`.

    Attributes:
      decode: ids [T] -> text.
      references: (dialogue, sub) -> what people wrote.
      source: the records of the split that is judged.
      at_most: how many examples are written to, spread over the split; None: all.
      in_training_at_most: the same while a run is in training.
      read: (dialogue, sub) -> the turns that are read, to judge slots too; None: they are not.
      sees: whether the photos are seen.
    """

    decode: Callable[[np.ndarray], str]
    references: Callable[[Dialogue, int], Sequence[str]]
    source: Source | None = None
    at_most: int | None = None
    in_training_at_most: int | None = None
    read: Callable[[Dialogue, int], Sequence[Turn]] | None = None
    sees: bool = False

    @property
    def metric_names(self) -> Sequence[str]:
        slots = SLOT_FIGURES if self.read is not None else ()
        return (*GenerationMetric().names, "perplexity", *slots)

    def reading(self, source: Source) -> GenerationEvaluator:
        return dataclasses.replace(self, source=source)

    def in_training(self) -> GenerationEvaluator:
        return dataclasses.replace(self, at_most=self.in_training_at_most)

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        everything = np.arange(len(index))
        some = everything
        if self.at_most is not None and self.at_most < len(index):
            some = np.unique(np.linspace(0, len(index) - 1, self.at_most).astype(np.int64))
        record, sub = index.record[some], index.sub[some]
        texts = [self.decode(ids) for ids in predict("written", some)]
        judged = judged_texts(texts, self._references(record, sub), record, sub)
        log_p = predict("log_p", everything).astype(np.float64)
        likely = Sums(log_p, perplexity)
        if self.read is not None:
            exchanged = predict(f"log_p@{OTHER_LABELS}", some) if self.sees else log_p[some]
            lower = exchanged[:, 0] < log_p[some, 0]
            asked = find_slots(self.source, record, sub, self.read, self.references)
            judged = with_slots(judged, asked, texts, lower)
        more = {"perplexity": likely} if len(some) == len(everything) else {}
        return dataclasses.replace(
            judged,
            metrics={**judged.metrics, "perplexity": likely.value},
            samples={**judged.samples, **more},
        )

    def _references(self, record: np.ndarray, sub: np.ndarray) -> list[Sequence[str]]:
        if self.source is None:
            raise ValueError("the evaluator has no records to read references from")
        return [
            self.references(self.source[int(i)], int(k)) for i, k in zip(record, sub, strict=True)
        ]


def judged_texts(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    record: np.ndarray,
    sub: np.ndarray,
) -> Evaluation:
    """The figures of `GenerationMetric` for texts that were written or chosen.

    Args:
      references: to each, what people wrote; one or more.
      record, sub: int [N], whose example each is; those of a dialogue are not independent.
    """
    metric = GenerationMetric()
    state = metric.update(metric.init(), answers(texts, references), {})
    return Evaluation(
        metrics=metric.compute(state),
        samples=metric.samples(state),
        per_example={
            "bleu": state.bleu,
            "rougeL": np.round(state.rouge[:, -1], 6),
            "exact": state.exact,
            "dialogue": record,
        },
        groups=record,
        rows=(record, sub),
    )


def perplexity(sums: Float[np.ndarray, "D 2"]) -> Float[np.ndarray, " D"]:
    """exp(-log-probability / tokens) of each row of sums."""
    return np.exp(-sums[:, 0] / np.maximum(sums[:, 1], 1))
