"""Yes or no: precision, recall and F1 of the positive class, and which threshold is best.

Where the positives are few, accuracy says nothing and so these three are counted. A quotient of
nothing by nothing is 0: who finds nothing has no precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from mmjax.metrics.base import ratio, without_padding
from mmjax.metrics.bootstrap import Sums


class Decisions(NamedTuple):
    """Attributes:
    label: 1 for the positive class, else 0.
    probability: of the positive class, in [0, 1].
    """

    label: Int[np.ndarray, " N"]
    probability: Float[np.ndarray, " N"]


def f1_parts(
    label: Int[np.ndarray, " N"], predicted: Bool[np.ndarray, " N"]
) -> dict[str, tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]]:
    """Per example (a, b) such that sum(a) / sum(b) is the figure in percent.

    precision: true positives of the predicted ones; recall: of the real ones; f1, their harmonic
    mean: 2 x true positives of both numbers together.
    """
    real, said = np.asarray(label, bool), np.asarray(predicted, bool)
    right = 100.0 * (real & said)
    real, said = real.astype(np.float64), said.astype(np.float64)
    return {"precision": (right, said), "recall": (right, real), "f1": (2 * right, real + said)}


def f1_variants(label: Int[np.ndarray, " N"], predicted: Bool[np.ndarray, " N"]) -> dict[str, Sums]:
    """F1 in percent, of either class and of both together.

    "f1": of the positive class; "f1@negative": of the other; "f1@macro": their mean;
    "f1@weighted": their mean weighted by how many examples are of each; "f1@micro": of all
    decisions, which with two classes is the share of right ones.
    """
    real, said = np.asarray(label, bool), np.asarray(predicted, bool)
    rows = np.stack([real & said, ~real & said, real & ~said, ~real & ~said], 1).astype(np.int64)
    return {name: Sums(rows, figure) for name, figure in _F1.items()}


def _f1(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Of a class, from its true positives and from false positives and negatives together."""
    total = 2 * right + wrong
    return np.divide(200 * right, total, out=np.zeros_like(total), where=total != 0)


def _f1_positive(sums: np.ndarray) -> np.ndarray:
    return _f1(sums[:, 0], sums[:, 1] + sums[:, 2])


def _f1_negative(sums: np.ndarray) -> np.ndarray:
    return _f1(sums[:, 3], sums[:, 1] + sums[:, 2])


def _f1_macro(sums: np.ndarray) -> np.ndarray:
    return (_f1_positive(sums) + _f1_negative(sums)) / 2


def _f1_weighted(sums: np.ndarray) -> np.ndarray:
    positives, negatives = sums[:, 0] + sums[:, 2], sums[:, 1] + sums[:, 3]
    total = positives * _f1_positive(sums) + negatives * _f1_negative(sums)
    return total / np.maximum(positives + negatives, 1)


def _f1_micro(sums: np.ndarray) -> np.ndarray:
    return _f1(sums[:, 0] + sums[:, 3], 2 * (sums[:, 1] + sums[:, 2]))


# Of sums [D, 4]: true positives, false positives, false negatives, true negatives.
_F1 = {
    "f1": _f1_positive,
    "f1@negative": _f1_negative,
    "f1@macro": _f1_macro,
    "f1@weighted": _f1_weighted,
    "f1@micro": _f1_micro,
}


def average_precision(label: Int[np.ndarray, " N"], score: Float[np.ndarray, " N"]) -> float:
    """sum over thresholds of precision x rise of recall, in [0, 1]; equal scores are one threshold.

    NaN where there is no positive.
    """
    _, said, right = _by_threshold(label, score)
    total = right[-1] if len(right) else 0
    if not total:
        return float("nan")
    return float((np.diff(right, prepend=0) / total * (right / said)).sum())


def best_threshold(label: Int[np.ndarray, " N"], score: Float[np.ndarray, " N"]) -> float:
    """The threshold with the highest F1, `score >= threshold` being positive; of equals the higher.

    It lies midway between two scores, so that their last bits do not matter, or between the lowest
    and 0.

    Raises ValueError for no scores.
    """
    if len(score) == 0:
        raise ValueError("there are no scores to choose a threshold from")
    value, said, right = _by_threshold(label, score)
    best = int(np.argmax(2 * right / (said + np.sum(label))))
    return float((value[best] + np.append(value, 0.0)[best + 1]) / 2)


def _by_threshold(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, ...]:
    """(distinct scores, falling; how many are at least that; how many of these are positive)."""
    if np.isnan(score).any():
        raise ValueError("NaN among the scores")
    order = np.argsort(-score, kind="stable")
    score, right = np.asarray(score)[order], np.cumsum(np.asarray(label, np.float64)[order])
    last = np.flatnonzero(np.diff(score, append=-np.inf))  # of each distinct score
    return score[last], last + 1.0, right[last]


@dataclass(frozen=True)
class ClassificationMetric:
    """Precision, recall and F1 of the positive class and average precision, all in percent.

    A decision by plain argmax is positive where the probability is above 1/2; "...@threshold"
    are the same figures where it is at least `threshold`.

    Predictions are the Decisions of a batch; `batch["weight"]`, where given, is 0 for padding. The
    state is the Decisions of all examples so far.
    """

    threshold: float = 0.5
    reduction: Literal["gather"] = "gather"

    def init(self) -> Decisions:
        return Decisions(np.zeros(0, np.int64), np.zeros(0))

    def update(
        self, state: Decisions, predictions: Decisions, batch: Mapping[str, Any]
    ) -> Decisions:
        return self.merge(state, without_padding(predictions, batch))

    def merge(self, a: Decisions, b: Decisions) -> Decisions:
        return jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)

    def compute(self, state: Decisions) -> dict[str, float]:
        return {
            **{name: ratio(*parts) for name, parts in self.parts(state).items()},
            "average_precision": 100 * average_precision(state.label, state.probability),
            "threshold": self.threshold,
        }

    def parts(self, state: Decisions) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`f1_parts` by argmax, and at the threshold under names that end with "@threshold"."""
        at = f1_parts(state.label, state.probability >= self.threshold)
        return {
            **f1_parts(state.label, state.probability > 0.5),
            **{f"{name}@threshold": parts for name, parts in at.items()},
        }
