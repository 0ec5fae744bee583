"""How far a mean over queries may be trusted: percentile bootstrap intervals.

A difference between two systems on the same queries is resampled in pairs: queries are hard or easy
for both, and intervals of the two means alone would hide differences that are real.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

CHUNK = 2**22  # indices drawn at once, so that memory does not grow with the number of queries


def bootstrap_interval(
    values: Float[np.ndarray, " Q"],
    *,
    groups: Int[np.ndarray, " Q"] | None = None,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of the mean of `values` (Efron, 1979).

    Queries of one group (captions of one photo) are not independent: whole groups are drawn then.

    The same values and seed give the same interval. Raises ValueError for no values, for NaN, and
    for a level outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError(f"values must be one row of numbers, not NaN; got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    sums, counts = values, np.ones(len(values))
    if groups is not None and len(np.unique(groups)) < len(values):
        number = np.unique(groups, return_inverse=True)[1].reshape(-1)
        sums, counts = np.bincount(number, values), np.bincount(number).astype(np.float64)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // len(sums))
    means = []
    for start in range(0, samples, chunk):
        drawn = rng.integers(len(sums), size=(min(chunk, samples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def paired_bootstrap(
    a: Float[np.ndarray, " Q"],
    b: Float[np.ndarray, " Q"],
    *,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(difference, low, high) of mean(a) - mean(b), a[q] and b[q] being of the same query.

    An interval that excludes 0 says that another draw of queries would hardly turn the order round.
    Raises ValueError as `bootstrap_interval`, and where the lengths differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired values differ in number: {np.shape(a)} and {np.shape(b)}")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = bootstrap_interval(difference, level=level, samples=samples, seed=seed)
    return float(difference.mean()), low, high
