"""How often one system beats another on the same queries, and whether that is more than chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Real


class WinTieLose(NamedTuple):
    """Attributes:
    wins, ties, losses: numbers of queries.
    p: of the sign test; 1 where nothing is won or lost.
    """

    wins: int
    ties: int
    losses: int
    p: float


def win_tie_lose(
    a: Real[np.ndarray, " Q"],
    b: Real[np.ndarray, " Q"],
    *,
    groups: Int[np.ndarray, " Q"] | None = None,
) -> WinTieLose:
    """Queries on which a is higher than b, equal, and lower, with the exact two-sided sign test
    (Dixon and Mood, 1946): how likely so uneven a number of wins and losses is if both are equally
    likely. Ties say nothing there.

    Queries of one group are not independent: in the test a group counts once, as a win where more
    of its queries are won than lost.

    Raises ValueError where the lengths differ, and for NaN.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1 or np.isnan(a).any() or np.isnan(b).any():
        raise ValueError(f"two rows of as many numbers, not NaN; got {a.shape} and {b.shape}")
    signs = np.sign(a - b)
    votes = signs
    if groups is not None:
        group = np.unique(groups, return_inverse=True)[1].reshape(-1)
        votes = np.sign(np.bincount(group, signs))
    wins, losses = int((votes > 0).sum()), int((votes < 0).sum())
    counts = (int((signs > 0).sum()), int((signs == 0).sum()), int((signs < 0).sum()))
    return WinTieLose(*counts, _sign_test(wins, losses))


def _sign_test(wins: int, losses: int) -> float:
    from scipy.stats import binomtest  # takes a second; JAX needs SciPy

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
