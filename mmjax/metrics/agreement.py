"""How far raters agree beyond chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def fleiss_kappa(counts: Int[np.ndarray, "N K"]) -> float:
    """Fleiss' kappa (1971) of nominal categories, each item rated by the same number of people.

    kappa = (P - Pe) / (1 - Pe): P the mean over items of the share of pairs of raters that agree,
    Pe the sum of the squared shares of the categories. 1 is full agreement, 0 what chance gives.

    Args:
      counts: how many raters put item n in category k.

    Returns:
      The figure; NaN where all ratings are one category, of which nothing can be said.

    Raises ValueError where items have different numbers of ratings, or fewer than two.
    """
    counts = np.asarray(counts, np.float64)
    raters = counts.sum(1)
    if len(counts) == 0 or raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError("every item needs the same number of ratings, two or more")
    n = raters[0]
    agreeing = ((counts**2).sum(1) - n) / (n * (n - 1))
    by_chance = ((counts.sum(0) / counts.sum()) ** 2).sum()
    if by_chance == 1:
        return float("nan")
    return float((agreeing.mean() - by_chance) / (1 - by_chance))
