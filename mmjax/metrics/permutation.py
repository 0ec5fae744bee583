"""Is a retrieval result better than chance? A permutation test that respects groups of queries.

Several queries may ask for the same photo (five captions of one picture): they are not
independent, so under the null hypothesis whole photos change places, and their queries with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class PermutationTest:
    """Attributes:
    observed: the statistic, in percent.
    chance: its mean under the null hypothesis.
    p_value: share of permutations that reach it, the observed one included.
    permutations: how many were drawn.
    """

    observed: float
    chance: float
    p_value: float
    permutations: int


def expected_hits(scores: Float[np.ndarray, "Q P"], k: int) -> Float[np.ndarray, "Q P"]:
    """Probability that each item is among the top `k` of each query, ties in random order."""
    ordered = np.sort(scores, axis=1)
    greater = scores.shape[1] - _count(ordered, scores, "right")
    equal = _count(ordered, scores, "right") - _count(ordered, scores, "left")
    return np.clip(k - greater, 0, equal) / equal


def permutation_test(
    folds: Sequence[tuple[Float[np.ndarray, "Q P"], Int[np.ndarray, " Q"]]],
    k: int = 10,
    permutations: int = 9_999,
    seed: int = 0,
) -> PermutationTest:
    """Recall at `k`, pooled over the queries of all folds, against permuted photos.

    Args:
      folds: for each the scores of its queries against its photos, and each query's own photo.
        Photos change places within their fold.
    """
    rng = np.random.default_rng(seed)
    queries = sum(len(gold) for _, gold in folds)
    observed, drawn = 0.0, np.zeros(permutations)
    for scores, gold in folds:
        hits, photos = expected_hits(scores, k), scores.shape[1]
        # gained[g, p]: what the queries of photo g would count if their photo were p.
        gained = np.zeros((photos, photos))
        np.add.at(gained, gold, hits)
        observed += np.trace(gained)
        asked = np.unique(gold)
        for i in range(permutations):
            drawn[i] += gained[asked, rng.permutation(photos)[: len(asked)]].sum()
    # Sums of the same numbers in another order differ in their last bits.
    reached = np.count_nonzero(drawn >= observed - 1e-9)
    return PermutationTest(
        observed=100 * observed / queries,
        chance=100 * float(drawn.mean()) / queries,
        p_value=(1 + reached) / (1 + permutations),
        permutations=permutations,
    )


def _count(ordered: np.ndarray, scores: np.ndarray, side: str) -> np.ndarray:
    """How many of a query's scores lie below each of them (or at it, with "right")."""
    rows = zip(ordered, scores, strict=True)
    return np.stack([np.searchsorted(row, values, side) for row, values in rows])
