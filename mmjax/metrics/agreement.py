"""How far raters agree beyond chance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Real

Level = Literal["nominal", "ordinal", "interval"]


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


def krippendorff_alpha(ratings: Real[np.ndarray, "N R"], level: Level) -> float:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability").

    alpha = 1 - Do / De: Do the mean squared distance of two ratings of the same item, De that of
    any two ratings. 1 is full agreement, 0 what chance gives. Items with one rating say nothing.

    Args:
      ratings: of item n by rater r; NaN where there is none. Of a nominal level numbers are names.
      level: how far two values are apart: "nominal": 1 if they differ; "ordinal": the ratings that
        lie between them, each value's own counted half; "interval": their difference.

    Returns:
      The figure; NaN where all ratings are the same or no item has two.

    Raises ValueError for another level, and where ratings are no table.
    """
    ratings = np.asarray(ratings, np.float64)
    if ratings.ndim != 2:
        raise ValueError(f"ratings must be [items, raters]; got shape {ratings.shape}")
    ratings = ratings[(~np.isnan(ratings)).sum(1) > 1]
    given = ~np.isnan(ratings)
    values, code = np.unique(ratings[given], return_inverse=True)
    if len(values) < 2:
        return float("nan")
    counts = np.zeros((len(ratings), len(values)))
    np.add.at(counts, (np.nonzero(given)[0], code.reshape(-1)), 1)
    distances = _squared_distances(values, counts.sum(0), level)
    # Pairs of different ratings of an item; a value is at no distance from itself.
    observed = ((counts @ distances) * counts).sum(1) / (counts.sum(1) - 1)
    expected = counts.sum(0) @ distances @ counts.sum(0) / (counts.sum() - 1)
    return float(1 - observed.sum() / expected)


def _squared_distances(
    values: Float[np.ndarray, " V"], counts: Float[np.ndarray, " V"], level: Level
) -> Float[np.ndarray, "V V"]:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    # The mean ranks of equal ratings are as far apart as the definition counts.
    places = {"ordinal": np.cumsum(counts) - counts / 2, "interval": values}
    if level not in places:
        raise ValueError(f"there is no level {level!r}: nominal, ordinal or interval")
    return np.subtract.outer(places[level], places[level]) ** 2
