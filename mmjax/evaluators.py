"""How a split is judged: predictions of named functions over a split, and metrics of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from mmjax.data.index import ExampleIndex
from mmjax.metrics.retrieval import (
    RankCounts,
    RetrievalMetric,
    rank_counts_from_embeddings,
    rank_counts_from_scores,
    recall_at_k,
)

# (name of a predictor, numbers of the examples) -> its outputs [N, ...] in that order.
Predict = Callable[[str, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Attributes:
    metrics: name -> value.
    samples: name of a metric that is a mean -> float64 [N], its value of each example, from which
      its interval is drawn.
    per_example: name -> [N], kept beside the result for paired comparisons.
    groups: int [N], examples with the same number are not independent; None: all are.
    """

    metrics: Mapping[str, float]
    samples: Mapping[str, np.ndarray]
    per_example: Mapping[str, np.ndarray]
    groups: np.ndarray | None = None


class Evaluator(Protocol):
    """Judges a split from a predictor's outputs alone; sees no model, mesh or file.

    Attributes:
      metric_names: keys of the metrics, so that a mistyped one is noticed before training.
    """

    metric_names: Sequence[str]

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Scores the examples of `index`."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The candidates of a split: each distinct photo once.

    Photos with equal content (the same labels, where a model sees only labels) share one row of
    `content`, are embedded once, and so tie exactly.

    Attributes:
      content: int64 [U], number of an example that shows each distinct content.
      content_of: int64 [P], row of `content` for each candidate.
      example_of: int64 [P], number of the first example that shares each candidate.
      gold: int64 [N], each example's own candidate.
    """

    content: np.ndarray
    content_of: np.ndarray
    example_of: np.ndarray
    gold: np.ndarray


def candidate_pool(index: ExampleIndex, *, candidate: str, content: str) -> Pool:
    """The pool of a split, from the keys that name its candidates and their content."""
    _, first, gold = np.unique(index.keys[candidate], return_index=True, return_inverse=True)
    _, shown, content_of = np.unique(
        index.keys[content][first], return_index=True, return_inverse=True
    )
    return Pool(first[shown], content_of, first, gold)


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator:
    """Recall of each example's own candidate among all candidates of its split (R@K).

    Attributes:
      candidate, content: keys that name a candidate and what a model sees of it.
      ks: cut-offs.
      ties: how equal scores count, see `mmjax.metrics.retrieval.recall_at_k`.
    """

    candidate: str = "photo"
    content: str = "content"
    ks: tuple[int, ...] = (1, 5, 10)
    ties: str = "expected"

    @property
    def metric_names(self) -> Sequence[str]:
        return (*(f"recall@{k}" for k in self.ks), "recall_sum", "mrr", "median_rank")

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Embeds queries with the predictor "query" and candidates with "photo"."""
        pool = candidate_pool(index, candidate=self.candidate, content=self.content)
        queries = predict("query", np.arange(len(index)))
        photos = predict("photo", pool.content)
        counts = rank_counts_from_embeddings(queries, photos[pool.content_of], pool.gold)
        return self.judge(counts, pool.gold)

    def evaluate_scores(self, index: ExampleIndex, scores: np.ndarray) -> Evaluation:
        """The same from scores [N, U] of every example against every distinct content."""
        pool = candidate_pool(index, candidate=self.candidate, content=self.content)
        counts = rank_counts_from_scores(scores[:, pool.content_of], pool.gold)
        return self.judge(counts, pool.gold)

    def judge(self, counts: RankCounts, gold: np.ndarray) -> Evaluation:
        """Metrics of the counts, and the counts themselves for intervals.

        Args:
          gold: [N], each example's own candidate; those who ask for the same are one group.
        """
        metric = RetrievalMetric(ks=self.ks, ties=self.ties)
        metrics = metric.compute(metric.update(metric.init(), counts, {}))
        recalls = {f"recall@{k}": 100 * recall_at_k(counts, k, self.ties) for k in self.ks}
        samples = {**recalls, "recall_sum": sum(recalls.values())}
        return Evaluation(metrics, samples, counts._asdict(), gold)
