"""How far a figure over queries may be trusted: percentile bootstrap intervals.

The figure is a mean, or a quotient of two sums (F1 is one). A difference between two systems on the
same queries is resampled in pairs: queries are hard or easy for both, and intervals of the two
figures alone would hide differences that are real.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from mmjax.metrics.base import ratio

CHUNK = 2**22  # indices drawn at once, so that memory does not grow with the number of queries


def bootstrap_interval(
    values: Float[np.ndarray, " Q"],
    weights: Float[np.ndarray, " Q"] | None = None,
    *,
    groups: Int[np.ndarray, " Q"] | None = None,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of sum(values) / sum(weights) (Efron, 1979).

    Queries of one group (captions of one photo, turns of one dialogue) are not independent: whole
    groups are drawn then.

    The same values and seed give the same interval. Raises ValueError for no values, for NaN, and
    for a level outside (0, 1).

    Args:
      weights: None: all 1, and the figure is the mean. A draw in which they are all 0 gives 0.
    """
    return _bounds(_resampled(values, weights, groups, samples, seed), level)


def paired_bootstrap(
    a: Float[np.ndarray, " Q"],
    b: Float[np.ndarray, " Q"],
    *,
    weights: tuple[Float[np.ndarray, " Q"], Float[np.ndarray, " Q"]] | None = None,
    groups: Int[np.ndarray, " Q"] | None = None,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(difference, low, high) of the figures of a and b, a[q] and b[q] being of the same query.

    An interval that excludes 0 says that another draw of queries would hardly turn the order round.
    Raises ValueError as `bootstrap_interval`, and where the lengths differ.

    Args:
      weights: of a and of b; None: the figures are means.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired values differ in number: {np.shape(a)} and {np.shape(b)}")
    weights = (None, None) if weights is None else weights
    # The draws depend on the seed and the number of groups alone: both see the same queries.
    both = zip((a, b), weights, strict=True)
    first, second = (_resampled(values, w, groups, samples, seed) for values, w in both)
    difference = ratio(a, weights[0]) - ratio(b, weights[1])
    return difference, *_bounds(first - second, level)


def _resampled(
    values: np.ndarray,
    weights: np.ndarray | None,
    groups: np.ndarray | None,
    samples: int,
    seed: int,
) -> np.ndarray:
    """[samples], the figure in each draw of as many groups as there are."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError(f"values must be one row of numbers, not NaN; got shape {values.shape}")
    sums = values
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    if groups is not None and len(np.unique(groups)) < len(values):
        number = np.unique(groups, return_inverse=True)[1].reshape(-1)
        sums, counts = np.bincount(number, values), np.bincount(number, counts)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // len(sums))
    figures = []
    for start in range(0, samples, chunk):
        drawn = rng.integers(len(sums), size=(min(chunk, samples - start), len(sums)))
        total, count = sums[drawn].sum(axis=1), counts[drawn].sum(axis=1)
        figures.append(np.divide(total, count, out=np.zeros_like(total), where=count != 0))
    return np.concatenate(figures)


def _bounds(figures: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    tail = (1 - level) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    return float(low), float(high)
