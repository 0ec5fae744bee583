"""Ranks of the gold item in a pool of any size, and recall under ties.

Label lists repeat and BM25 gives most documents the score 0, so that the rule for ties moves
recall by tens of points. Hence ranks are kept as three counts per query, from which every rule
follows, and a NaN is an error: compared with anything it is false and would look like rank 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from mmjax.metrics.base import without_padding
from mmjax.parallel.scores import DOT_PRODUCT, Score, Tree, floating
from mmjax.parallel.topk import BLOCK, RankCounts, rank_counts, top_k

Ties = Literal["expected", "pessimistic", "argsort_reversed"]

BLOCK_BYTES = 256 * 2**20  # temporaries of one block of queries


@dataclass(frozen=True)
class Ranking:
    """What every query found.

    Attributes:
      counts: of candidates above and beside the query's own.
      own: float [Q], score of the own one.
      top: int [Q, k], positions in the pool of the best, the best first, equal ones by increasing
        position; -1 where the pool has fewer.
      scores: float32 [Q, k], theirs.
    """

    counts: RankCounts
    own: Float[np.ndarray, " Q"]
    top: Int[np.ndarray, "Q k"]
    scores: Float[np.ndarray, "Q k"]


def ranking_from_embeddings(
    queries: Tree,
    pool: Tree,
    gold: Int[np.ndarray, " Q"],
    k: int,
    *,
    score: Score = DOT_PRODUCT,
    block: tuple[int, int] = BLOCK,
) -> Ranking:
    """The k best by a score, or all where there are fewer, for a pool of any size.

    Args and errors as of `rank_counts_from_embeddings`.
    """
    counts = rank_counts_from_embeddings(queries, pool, gold, score=score, block=block)
    k = min(k, len(jax.tree.leaves(pool)[0]))

    def search(queries: Tree, gold: np.ndarray) -> tuple[jax.Array, ...]:
        own = _paired(queries, jax.tree.map(lambda x: x[gold], pool), score)
        return own, *top_k(queries, pool, k, score=score, block=block)

    own, scores, top = _by_parts(search, score, queries, gold)
    # Where the own one is among the best it has one score, to the last bit.
    found = top == gold[:, None]
    own = np.where(found.any(1), np.where(found, scores, 0).sum(1), own)
    return Ranking(counts, own, top, scores)


def ranking_from_scores(
    scores: Float[np.ndarray, "Q P"], gold: Int[np.ndarray, " Q"], k: int
) -> Ranking:
    """The same from a score matrix. Raises as `rank_counts_from_scores`."""
    counts = rank_counts_from_scores(scores, gold)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    own = np.take_along_axis(scores, gold[:, None], 1)[:, 0]
    return Ranking(counts, own, top, np.take_along_axis(scores, top, 1))


def rank_counts_from_embeddings(
    queries: Tree,
    pool: Tree,
    gold: Int[np.ndarray, " Q"],
    *,
    score: Score = DOT_PRODUCT,
    block: tuple[int, int] = BLOCK,
) -> RankCounts:
    """Counts for dot products or another score; under a mesh each device sees its part of the pool.

    Args:
      queries, pool: trees of numpy arrays [Q, ...] and [P, ...] as `score` reads them; [Q, D] and
        [P, D] for the dot product.
      gold: position in the pool of each query's one right item.
      block: queries and candidates that are scored at a time.

    Raises ValueError for a gold index outside the pool, and for NaN and infinity, which compared
    with anything would look like a good rank.
    """
    _check_gold(gold, len(jax.tree.leaves(pool)[0]))
    for name, vectors in (("query", queries), ("candidate", pool)):
        for x in jax.tree.leaves(floating(vectors)):
            finite = np.isfinite(x).reshape(len(x), -1).all(1)
            if not finite.all():
                raise ValueError(
                    f"the embedding of {name} {np.argmin(finite)} holds NaN or infinity"
                )

    def count(queries: Tree, gold: np.ndarray) -> RankCounts:
        return rank_counts(queries, pool, gold, score=score, block=block)

    return _join([tuple(_by_parts(count, score, queries, gold))])


def rank_counts_from_scores(
    scores: Float[np.ndarray, "Q P"], gold: Int[np.ndarray, " Q"]
) -> RankCounts:
    """Counts from a score matrix; `gold[q]` is the pool index of query q's one right item.

    Raises ValueError for NaN scores and for a gold index outside the pool.
    """
    Q, P = scores.shape
    _check_gold(gold, P)
    index = np.arange(P)
    blocks = []
    size = max(1, BLOCK_BYTES // (8 * max(1, P)))
    for start in range(0, Q, size):
        block, own = scores[start : start + size], gold[start : start + size, None]
        if np.isnan(block).any():
            raise ValueError(f"NaN among the scores of queries {start} to {start + len(block) - 1}")
        own_score = np.take_along_axis(block, own, axis=1)  # [b, 1]
        equal = block == own_score  # [b, P]
        blocks.append(
            ((block > own_score).sum(1), equal.sum(1), (equal & (index > own)).sum(1)),
        )
    return _join(blocks)


def recall_at_k(counts: RankCounts, k: int, ties: Ties = "expected") -> Float[np.ndarray, " Q"]:
    """Share, in [0, 1], of each query's gold item among the top k; its mean is recall at k.

    ties:
      "expected": expectation over random orders of tied items, clip(k - greater, 0, equal) / equal.
      "pessimistic": the gold item comes last among its ties.
      "argsort_reversed": the larger pool index wins, as in `argsort(scores)[::-1]` (stable) of the
        evaluation code of VSE++ and SCAN.
    """
    if ties == "expected":
        return np.clip(k - counts.greater, 0, counts.equal) / counts.equal
    return (_rank(counts, ties) <= k).astype(np.float64)


@dataclass(frozen=True)
class RetrievalMetric:
    """Recall at k in percent, their sum, mean reciprocal rank and median rank.

    Predictions are the RankCounts of a batch of queries; `batch["weight"]`, where given, is 0 for
    padding. The state is the RankCounts of all queries so far: three integers per query.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    ties: Ties = "expected"
    reduction: Literal["gather"] = "gather"

    def init(self) -> RankCounts:
        return _join([])

    def update(
        self, state: RankCounts, predictions: RankCounts, batch: Mapping[str, Any]
    ) -> RankCounts:
        return self.merge(state, without_padding(predictions, batch))

    def merge(self, a: RankCounts, b: RankCounts) -> RankCounts:
        return _join([a, b])

    def compute(self, state: RankCounts) -> dict[str, float]:
        """{"recall@k" for each k, "recall_sum", "mrr", "median_rank"}.

        Recalls are percentages, their sum at most 100 * len(ks); mrr is in (0, 1]; ranks count
        from 1. With ties="expected", mrr is the expectation of 1 / rank over orders of the tied
        items, and median_rank the median of the expected ranks.

        Raises ValueError where there are no queries.
        """
        if len(state.greater) == 0:
            raise ValueError("no queries: recall is not defined")
        result = {f"recall@{k}": 100 * float(self._recall(state, k).mean()) for k in self.ks}
        result["recall_sum"] = sum(result.values())
        result["mrr"] = float(_reciprocal_rank(state, self.ties).mean())
        result["median_rank"] = float(np.median(_rank(state, self.ties)))
        return result

    def recall_sum(self, state: RankCounts) -> Float[np.ndarray, " Q"]:
        """Each query's part of "recall_sum", in percent: what a bootstrap resamples."""
        return 100 * sum(self._recall(state, k) for k in self.ks)

    def _recall(self, state: RankCounts, k: int) -> Float[np.ndarray, " Q"]:
        return recall_at_k(state, k, self.ties)


def _by_parts(
    function: Callable[[Tree, np.ndarray], Sequence[jax.Array]],
    score: Score,
    queries: Tree,
    gold: Int[np.ndarray, " Q"],
) -> list[np.ndarray]:
    """function(queries, gold) -> arrays [Q, ...], of queries together that are quick together."""
    found: list[np.ndarray] = []
    for numbers, part in score.alike(queries):
        arrays = [np.asarray(x) for x in function(part, gold[numbers])]
        found = found or [np.zeros((len(gold), *x.shape[1:]), x.dtype) for x in arrays]
        for whole, x in zip(found, arrays, strict=True):
            whole[numbers] = x
    return found


@partial(jax.jit, static_argnames="score")
def _paired(queries: Tree, candidates: Tree, score: Score) -> Float[Array, " Q"]:
    return score.paired(queries, candidates)


def _rank(counts: RankCounts, ties: Ties) -> Float[np.ndarray, " Q"]:
    """Rank of the gold item, from 1; the expected one for "expected"."""
    if ties == "expected":
        return counts.greater + (counts.equal + 1) / 2
    if ties == "pessimistic":
        return (counts.greater + counts.equal).astype(np.float64)
    if ties == "argsort_reversed":
        return (counts.greater + counts.equal_after + 1).astype(np.float64)
    raise ValueError(f"ties={ties!r}: use expected, pessimistic or argsort_reversed")


def _reciprocal_rank(counts: RankCounts, ties: Ties) -> Float[np.ndarray, " Q"]:
    if ties != "expected":
        return 1 / _rank(counts, ties)
    last = counts.greater + counts.equal
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, last.max() + 1))])
    return (harmonic[last] - harmonic[counts.greater]) / counts.equal


def _check_gold(gold: Int[np.ndarray, " Q"], P: int) -> None:
    if len(gold) and not (gold.min() >= 0 and gold.max() < P):
        raise ValueError(f"gold index {gold.min()}..{gold.max()} outside the pool of {P} items")


def _join(blocks: list[tuple[np.ndarray, ...]]) -> RankCounts:
    empty = (np.zeros(0, np.int64),) * 3
    columns = zip(empty, *blocks, strict=True)
    return RankCounts(*(np.concatenate(x).astype(np.int64) for x in columns))
