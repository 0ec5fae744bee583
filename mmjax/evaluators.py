"""How a split is judged: predictions of named functions over a split, and metrics of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from mmjax.data.index import ExampleIndex
from mmjax.data.sources import Source
from mmjax.errors import UserError
from mmjax.metrics.base import ratio
from mmjax.metrics.bootstrap import Sample
from mmjax.metrics.classification import (
    ClassificationMetric,
    Decisions,
    best_threshold,
    f1_parts,
)
from mmjax.metrics.retrieval import (
    RankCounts,
    RetrievalMetric,
    rank_counts_from_embeddings,
    rank_counts_from_scores,
    recall_at_k,
)
from mmjax.parallel.scores import DOT_PRODUCT, Score
from mmjax.parallel.topk import BLOCK

# (name of a predictor, numbers of the examples) -> its outputs, arrays [N, ...] in that order.
# "NAME@PERTURBATION": its outputs for the same examples where what is seen in the photos is
# perturbed (`mmjax.data.perturb`; one that has `photos`).
Predict = Callable[[str, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Attributes:
    metrics: name -> value.
    samples: name of a metric -> what its interval is drawn from: float64 [N], whose mean it is, two
      of them (a, b) where it is sum(a) / sum(b), or `Sums` where it is another function of sums.
    per_example: name -> [N], kept beside the result for paired comparisons.
    groups: int [N], examples with the same number are not independent; None: all are.
    rows: (record, sub) of each of the N, int [N], where they are not the examples of the index.
    chance: name of a metric -> what who knows nothing reaches, where that is known.
    parts: of several tasks, what each was judged like; the rest is then empty but for the metrics.
    """

    metrics: Mapping[str, float]
    samples: Mapping[str, Sample]
    per_example: Mapping[str, np.ndarray]
    groups: np.ndarray | None = None
    rows: tuple[np.ndarray, np.ndarray] | None = None
    chance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Evaluation] = dataclasses.field(default_factory=dict)


def of_part(part: str, name: str) -> str:
    """What a part of a mixture calls `name`: "rewrite/exact"; the part "" is the whole."""
    return f"{part}/{name}" if part else name


def part_of(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of values by such names, those of a part by its own names."""
    start = of_part(part, "")
    return {name[len(start) :]: x for name, x in values.items() if name.startswith(start)}


class Evaluator(Protocol):
    """Judges a split from a predictor's outputs alone; sees no model, mesh or file.

    Attributes:
      metric_names: keys of the metrics, so that a mistyped one is noticed before training.
      chosen: fields of the evaluator (a dataclass then) that are chosen on dev while they are None,
        and are among its metrics there. A run keeps them with its best state, and other splits are
        judged by an evaluator that has them.
    """

    metric_names: Sequence[str]
    chosen: Sequence[str] = ()

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Scores the examples of `index`."""

    def reading(self, source: Source) -> Evaluator:
        """The one for a split with these records, where it compares with texts in them."""
        return self

    def check(self, index: ExampleIndex, kept: Collection[str] = ()) -> None:
        """Raises UserError for a split that cannot be judged, so that it is told before training.

        Args:
          kept: the metrics by which states are kept, which a run in training must have.
        """

    def in_training(self) -> Evaluator:
        """The one for a run in training, where that may be cheaper."""
        return self


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
class RetrievalEvaluator(Evaluator):
    """Recall of each example's own candidate among all candidates of its split (R@K).

    Attributes:
      candidate, content: keys that name a candidate and what a model sees of it.
      ks: cut-offs.
      ties: how equal scores count, see `mmjax.metrics.retrieval.recall_at_k`.
      score: of what the predictors give, queries as rows and photos as columns.
      block: queries and candidates that are scored at a time.
    """

    candidate: str = "photo"
    content: str = "content"
    ks: tuple[int, ...] = (1, 5, 10)
    ties: str = "expected"
    score: Score = DOT_PRODUCT
    block: tuple[int, int] = BLOCK

    @property
    def metric_names(self) -> Sequence[str]:
        return (*(f"recall@{k}" for k in self.ks), "recall_sum", "mrr", "median_rank")

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Embeds queries with the predictor "query" and candidates with "photo"."""
        pool = candidate_pool(index, candidate=self.candidate, content=self.content)
        queries = predict("query", np.arange(len(index)))
        photos = jax.tree.map(lambda x: x[pool.content_of], predict("photo", pool.content))
        counts = rank_counts_from_embeddings(
            queries, photos, pool.gold, score=self.score, block=self.block
        )
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
        candidates = len(np.unique(gold))  # each is somebody's own
        chance = {f"recall@{k}": 100 * min(k, candidates) / candidates for k in self.ks}
        chance["recall_sum"] = sum(chance.values())
        return Evaluation(metrics, samples, counts._asdict(), gold, chance=chance)


@dataclasses.dataclass(frozen=True)
class TurnRows:
    """Every scored turn once, in the order of the records and turns.

    Attributes:
      record: int64 [N], of the dialogue; turn: int64 [N], from 0.
      label: int64 [N]; probability: float64 [N].
    """

    record: np.ndarray
    turn: np.ndarray
    label: np.ndarray
    probability: np.ndarray


def turn_rows(
    index: ExampleIndex, predict: Predict, *, predictor: str, target: str, places: str
) -> TurnRows:
    """Turns from examples that score one or several turns in a row, the first of them `sub`.

    Args:
      predictor: gives log-odds [N, T], of which an example's first `index.lengths[places]` count.
      target: name of the examples' label; it is the last turn's, the turns before have 0.
    """
    count = index.lengths[places].astype(np.int64)
    odds = predict(predictor, np.arange(len(index))).astype(np.float64)
    which = np.arange(odds.shape[1]) < count[:, None]  # [N, T]
    last = np.cumsum(count) - 1
    label = np.zeros(count.sum(), np.int64)
    label[last] = index.targets[target]
    turn = np.arange(len(label)) - np.repeat(last + 1 - count, count) + np.repeat(index.sub, count)
    # Without overflow for odds of any size.
    probability = np.exp(-np.logaddexp(0, -odds[which]))
    return TurnRows(np.repeat(index.record, count), turn, label, probability)


@dataclasses.dataclass(frozen=True)
class TurnEvaluator(Evaluator):
    """Precision, recall and F1 of yes after each turn of each dialogue, see `turn_rows`.

    Attributes:
      threshold: on the probability, for the figures "...@threshold"; None: the one with the best F1
        on this split.
      decided: a predictor of decisions [N, 1], which have figures "...@written"; None: there is
        none. For examples that score one turn.
    """

    predictor: str
    target: str
    places: str
    threshold: float | None = None
    decided: str | None = None
    chosen = ("threshold",)

    @property
    def metric_names(self) -> Sequence[str]:
        names = ("precision", "recall", "f1")
        ways = ("threshold",) if self.decided is None else ("threshold", "written")
        at = (f"{name}@{way}" for way in ways for name in names)
        return (*names, *at, "average_precision", "threshold")

    def check(self, index: ExampleIndex, kept: Collection[str] = ()) -> None:
        """Raises UserError where no turn is positive: nothing could be found."""
        if not index.targets[self.target].any():
            raise UserError(
                "no dialogue of this split shares a photo, so there is nothing to find in it: "
                "choose another dataset, or another split."
            )

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Raises UserError as `check`."""
        self.check(index)
        rows = turn_rows(
            index, predict, predictor=self.predictor, target=self.target, places=self.places
        )
        threshold = self.threshold
        if threshold is None:
            threshold = best_threshold(rows.label, rows.probability)
        decisions = Decisions(rows.label, rows.probability)
        metric = ClassificationMetric(threshold)
        metrics, samples = metric.compute(decisions), metric.parts(decisions)
        always = f1_parts(rows.label, np.ones(len(rows.label), bool))
        if self.decided is not None:
            written = predict(self.decided, np.arange(len(index)))[:, 0]
            parts = f1_parts(rows.label, written)
            samples |= {f"{name}@written": part for name, part in parts.items()}
            metrics |= {f"{name}@written": ratio(*part) for name, part in parts.items()}
        return Evaluation(
            metrics=metrics,
            samples=samples,
            per_example={
                "label": rows.label,
                "probability": np.round(rows.probability, 9),
                "dialogue": rows.record,
            },
            groups=rows.record,
            rows=(rows.record, rows.turn),
            # Of who always says yes.
            chance={name: ratio(*part) for name, part in always.items()},
        )


@dataclasses.dataclass(frozen=True)
class Reranked:
    """What became of the candidates of each query, Q queries and N pairs of both.

    Attributes:
      first, end: int [Q], a query's pairs are those from `first` up to `end`, exclusive.
      score: [N], of each pair.
      counts: of all candidates, above and beside each query's own.
    """

    first: np.ndarray
    end: np.ndarray
    score: np.ndarray
    counts: RankCounts


def reranked(index: ExampleIndex, score: np.ndarray) -> Reranked:
    """Ranks within what was proposed; the others stay below it, in the order they had.

    Args:
      index: an example per pair, a query's beside each other, with targets: "share", which of its
        record's queries; "right", whether its candidate is the query's own, or one that cannot be
        told from it; "alike", how many candidates stand behind the pair; "above" and "equal", the
        own one's counts in the ranking that proposed.
      score: [N].

    Raises ValueError for NaN and infinity.
    """
    if not np.isfinite(score).all():
        raise ValueError(f"the score of pair {np.argmin(np.isfinite(score))} is no finite number")
    targets = index.targets
    same = (np.diff(index.record) == 0) & (np.diff(targets["share"]) == 0)
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    end = np.append(first[1:], len(index))
    query = np.repeat(np.arange(len(first)), end - first)  # [N]
    right, alike = targets["right"] > 0, targets["alike"]
    own = np.full(len(first), -np.inf)
    own[query[right]] = score[right]
    above = np.bincount(query, alike * (score > own[query])).astype(np.int64)
    equal = np.bincount(query, alike * (score == own[query])).astype(np.int64)
    missed = np.isinf(own)  # all that was proposed is above it
    counts = RankCounts(
        greater=np.where(missed, np.maximum(above, targets["above"][first]), above),
        equal=np.where(missed, targets["equal"][first], equal),
        equal_after=np.zeros(len(first), np.int64),
    )
    return Reranked(first, end, score, counts)


# Of the proposer's score, relative to its spread within a query, beside the network's.
MIXES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclasses.dataclass(frozen=True)
class RerankEvaluator(Evaluator):
    """R@K of all candidates, where a network scored those that were proposed; see `reranked`.

    Attributes:
      mix: how much of the proposer's score is added for the figures "...@mixed"; None: what gives
        the best sum of recalls on this split.
      ties: as in `RetrievalEvaluator`.
    """

    mix: float | None = None
    ties: str = "expected"
    chosen = ("mix",)

    @property
    def metric_names(self) -> Sequence[str]:
        names = RetrievalEvaluator().metric_names
        return (*names, *(f"{name}@mixed" for name in names), "mix", "proposed_recall")

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Scores pairs with the predictors "fit" and "proposed"."""
        everything = np.arange(len(index))
        fit, proposed = (
            predict(name, everything).astype(np.float64) for name in ("fit", "proposed")
        )
        plain = reranked(index, fit)
        query = np.repeat(np.arange(len(plain.first)), plain.end - plain.first)
        fit, proposed = _standard(fit, query), _standard(proposed, query)
        mixes = MIXES if self.mix is None else (self.mix,)
        # The first of equally good ones: the least of the other's score.
        ways = [(self._judged(index, reranked(index, fit + mix * proposed)), mix) for mix in mixes]
        mixed, mix = max(ways, key=lambda way: way[0].metrics["recall_sum"])
        judged = self._judged(index, plain)
        share = index.targets["share"][plain.first]
        right = np.bincount(query, index.targets["right"]) > 0
        return dataclasses.replace(
            judged,
            metrics={
                **judged.metrics,
                **{f"{name}@mixed": value for name, value in mixed.metrics.items()},
                "mix": mix,
                "proposed_recall": 100 * float(right.mean()),
            },
            samples={
                **judged.samples,
                **{f"{name}@mixed": value for name, value in mixed.samples.items()},
            },
            per_example={
                **judged.per_example,
                **{f"{name}@mixed": value for name, value in mixed.per_example.items()},
            },
            rows=(index.record[plain.first], share),
        )

    def _judged(self, index: ExampleIndex, found: Reranked) -> Evaluation:
        gold = np.unique(index.keys["photo"][found.first], return_inverse=True)[1]
        return RetrievalEvaluator(ties=self.ties).judge(found.counts, gold)


def _standard(score: np.ndarray, query: np.ndarray) -> np.ndarray:
    """With mean 0 and spread 1 among the pairs of each query."""
    count = np.bincount(query)
    score = score - (np.bincount(query, score) / count)[query]
    spread = np.sqrt(np.bincount(query, score**2) / count)
    return score / np.where(spread > 0, spread, 1)[query]
