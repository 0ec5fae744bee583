"""How far a figure over queries may be trusted: percentile bootstrap intervals.

The figure is a mean, or a quotient of two sums (F1 is one), or another function of sums (BLEU of a
corpus is one). A difference between two systems on the
same queries is resampled in pairs: queries are hard or easy for both, and intervals of the two
figures alone would hide differences that are real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real

CHUNK = 2**22  # indices drawn at once, so that memory does not grow with the number of queries


@dataclass(frozen=True)
class Sums:
    """What a figure is computed from, where it depends on sums over queries alone.

    Attributes:
      rows: of each query, what is summed.
      figure: sums [D, S] -> figures [D], of D draws.
    """

    rows: Real[np.ndarray, "Q S"]
    figure: Callable[[Float[np.ndarray, "D S"]], Float[np.ndarray, " D"]]

    @property
    def value(self) -> float:
        """The figure of all queries."""
        return float(self.figure(np.asarray(self.rows, np.float64).sum(0)[None])[0])

    def ordered(self, order: Int[np.ndarray, " P"]) -> Sums:
        """Of these queries, in this order."""
        return Sums(self.rows[order], self.figure)

    def only(self, kept: Bool[np.ndarray, " Q"]) -> Sums:
        """Of as many queries, of which all others count nothing."""
        return Sums(self.rows * np.asarray(kept)[:, None], self.figure)


Sample = np.ndarray | tuple[np.ndarray, np.ndarray] | Sums


def as_sums(sample: Sample, weights: Float[np.ndarray, " Q"] | None = None) -> Sums:
    """A sample in its general form: a row of numbers is a mean (of the weights' sum where they are
    given), two rows (a, b) are sum(a) / sum(b).

    Raises ValueError for no values and for NaN.
    """
    if isinstance(sample, Sums):
        rows, figure = np.asarray(sample.rows, np.float64), sample.figure
        usable = rows.ndim == 2
    else:
        if isinstance(sample, tuple):
            sample, weights = sample
        values = np.asarray(sample, np.float64)
        usable = values.ndim == 1
        counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
        rows, figure = np.stack([values, counts], 1) if usable else values, _quotients
    if not usable or len(rows) == 0 or np.isnan(rows).any():
        raise ValueError(f"values must be one row of numbers, not NaN; got shape {rows.shape}")
    return Sums(rows, figure)


def _quotients(sums: Float[np.ndarray, "D 2"]) -> Float[np.ndarray, " D"]:
    total, count = sums[:, 0], sums[:, 1]
    return np.divide(total, count, out=np.zeros_like(total), where=count != 0)


def bootstrap_interval(
    values: Sample,
    weights: Float[np.ndarray, " Q"] | None = None,
    *,
    groups: Int[np.ndarray, " Q"] | None = None,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of a figure (Efron, 1979).

    Queries of one group (captions of one photo, turns of one dialogue) are not independent: whole
    groups are drawn then.

    The same values and seed give the same interval. Raises ValueError for no values, for NaN, and
    for a level outside (0, 1).

    Args:
      values: see `as_sums`.
      weights: of one row of values; None: all 1, and the figure is the mean. A draw in which they
        are all 0 gives 0.
    """
    return _bounds(_resampled(as_sums(values, weights), groups, samples, seed), level)


def paired_bootstrap(
    a: Sample,
    b: Sample,
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
    weights = (None, None) if weights is None else weights
    one, other = as_sums(a, weights[0]), as_sums(b, weights[1])
    if one.rows.shape != other.rows.shape:
        raise ValueError(f"paired values differ in number: {one.rows.shape} and {other.rows.shape}")
    # The draws depend on the seed and the number of groups alone: both see the same queries.
    first, second = (_resampled(sums, groups, samples, seed) for sums in (one, other))
    return one.value - other.value, *_bounds(first - second, level)


def _resampled(sums: Sums, groups: np.ndarray | None, samples: int, seed: int) -> np.ndarray:
    """[samples], the figure in each draw of as many groups as there are."""
    columns = list(sums.rows.T)
    if groups is not None and len(np.unique(groups)) < len(sums.rows):
        number = np.unique(groups, return_inverse=True)[1].reshape(-1)
        columns = [np.bincount(number, column) for column in columns]
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // len(columns[0]))
    figures = []
    for start in range(0, samples, chunk):
        drawn = rng.integers(len(columns[0]), size=(min(chunk, samples - start), len(columns[0])))
        figures.append(sums.figure(np.stack([c[drawn].sum(axis=1) for c in columns], 1)))
    return np.concatenate(figures)


def _bounds(figures: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    tail = (1 - level) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    return float(low), float(high)
