"""Ranks of the gold item in a pool of any size, and recall under ties.

Label lists repeat and BM25 gives most documents the score 0, so that the rule for ties moves
recall by tens of points. Hence ranks are kept as three counts per query, from which every rule
follows, and a NaN is an error: compared with anything it is false and would look like rank 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Ties = Literal["expected", "pessimistic", "argsort_reversed"]

BLOCK_BYTES = 256 * 2**20  # temporaries of one block of queries


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankCounts:
    """Per query, among the items of the pool; together they give the rank under any rule for ties.

    greater: items with a higher score than the gold item.
    equal: items with the gold item's score, itself included (>= 1).
    equal_after: of those, the ones at a larger pool index than the gold item.
    """

    greater: Int[np.ndarray, " Q"]
    equal: Int[np.ndarray, " Q"]
    equal_after: Int[np.ndarray, " Q"]


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


def rank_counts_from_embeddings(
    queries: Float[np.ndarray, "Q D"],
    pool: Float[np.ndarray, "U D"],
    pool_of: Int[np.ndarray, " P"],
    gold: Int[np.ndarray, " Q"],
    *,
    block_bytes: int = BLOCK_BYTES,
) -> RankCounts:
    """Counts for dot-product scores, in blocks of queries: never more than `block_bytes` of scores.

    Args:
      queries, pool: embeddings; scores are accumulated in float32 at the highest precision.
      pool_of: row of `pool` that stands at each pool position. Positions that share a row tie
        exactly; vectors that are stored twice may differ in a score's last bit and then do not.
      gold: pool position of each query's one right item.

    Raises ValueError for NaN scores and for indices that are out of range.
    """
    Q, (U, P) = len(queries), (len(pool), len(pool_of))
    _check_gold(gold, P)
    if P and not (pool_of.min() >= 0 and pool_of.max() < U):
        raise ValueError(f"pool_of points outside the pool of {U} vectors")
    size = _block_size(Q, U, P, block_bytes)
    pool, pool_of = jnp.asarray(pool), jnp.asarray(pool_of, jnp.int32)
    blocks = []
    for start in range(0, Q, size):
        real = min(size, Q - start)
        block = np.zeros((size, queries.shape[1]), queries.dtype)
        own = np.zeros(size, np.int32)
        block[:real] = queries[start : start + real]
        own[:real] = gold[start : start + real]
        # Fetched before the next block is sent: blocks in flight would add up in memory.
        nan, *counts = (np.asarray(x)[:real] for x in _count_block(block, pool, pool_of, own))
        if nan.any():
            raise ValueError(
                f"NaN among the scores of query {start + int(np.argmax(nan))}: "
                "an embedding holds NaN or infinity"
            )
        blocks.append(tuple(counts))
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
        if "weight" in batch:
            real = np.asarray(batch["weight"]) > 0
            predictions = jax.tree.map(lambda x: np.asarray(x)[real], predictions)
        return self.merge(state, predictions)

    def merge(self, a: RankCounts, b: RankCounts) -> RankCounts:
        return _join([_columns(a), _columns(b)])

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


def _block_size(Q: int, U: int, P: int, block_bytes: int) -> int:
    """Queries per block: as many as `block_bytes` hold, of even size so that padding is little."""
    # What XLA holds per query: the scores by vector with a NaN mask (5 bytes each), and by position
    # the gathered scores with the three comparisons widened for their sums (16).
    largest = max(1, block_bytes // max(1, 5 * U + 16 * P))
    blocks = max(1, -(-Q // largest))
    return max(1, -(-Q // blocks))


@jax.jit
def _count_block(
    queries: Float[Array, "b D"],
    pool: Float[Array, "U D"],
    pool_of: Int[Array, " P"],
    gold: Int[Array, " b"],
) -> tuple[Array, Array, Array, Array]:
    by_vector = jnp.einsum(
        "qd,ud->qu", queries, pool, precision="highest", preferred_element_type=jnp.float32
    )
    # Gathered, not multiplied again: positions with one vector must tie to the last bit.
    scores = by_vector[:, pool_of]  # [b, P]
    own = jnp.take_along_axis(scores, gold[:, None], axis=1)  # [b, 1]
    equal = scores == own
    after = jnp.arange(scores.shape[1]) > gold[:, None]
    return (
        jnp.isnan(by_vector).any(axis=1),
        (scores > own).sum(axis=1),
        equal.sum(axis=1),
        (equal & after).sum(axis=1),
    )


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


def _columns(counts: RankCounts) -> tuple[np.ndarray, ...]:
    return counts.greater, counts.equal, counts.equal_after
