"""How written texts are judged: against what people wrote, and by how likely that was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from mmjax.data.index import ExampleIndex
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.evaluators import Evaluation, Evaluator, Predict
from mmjax.metrics.bootstrap import Sums
from mmjax.metrics.generation import GenerationMetric, answers


@dataclasses.dataclass(frozen=True)
class GenerationEvaluator(Evaluator):
    """Figures of the predictor "written", ids [N, T], and the perplexity of people's texts, from
    "log_p", [N, 2]: the log-probability of each, and its number of tokens.

    The perplexity is exp(-sum of log-probabilities / tokens) over all examples, ends included.

    Attributes:
      decode: ids [T] -> text.
      references: (dialogue, sub) -> what people wrote.
      source: the records of the split that is judged.
      at_most: how many examples are written to, spread over the split; None: all.
      in_training_at_most: the same while a run is in training.
    """

    decode: Callable[[np.ndarray], str]
    references: Callable[[Dialogue, int], Sequence[str]]
    source: Source | None = None
    at_most: int | None = None
    in_training_at_most: int | None = None

    @property
    def metric_names(self) -> Sequence[str]:
        return (*GenerationMetric().names, "perplexity")

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
        likely = Sums(predict("log_p", everything).astype(np.float64), perplexity)
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
