"""What a metric is: a state that is filled batch by batch, merged, and read once at the end.

A metric never talks to devices or processes. It says how its states combine (`reduction`), and the
evaluator, who knows the processes, does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np

State = Any  # a tree of numpy arrays; each metric says which


@runtime_checkable
class Metric(Protocol):
    """Contract of every metric.

    `reduction` is how states of several processes become one:
      "sum": every array of the state has a fixed shape and states add up element by element.
      "gather": the arrays' first axis counts examples and states are concatenated, in any order.
        Such a state holds a few numbers per example, never an embedding or a row of scores, so
        that the gathered state of a whole evaluation fits on every host.
    `merge` does the same for two states of one process. Padding (weight 0) leaves no trace.
    """

    @property
    def reduction(self) -> Literal["sum", "gather"]: ...

    def init(self) -> State:
        """State before the first batch; merging it changes nothing."""
        ...

    def update(self, state: State, predictions: Any, batch: Mapping[str, Any]) -> State:
        """State with one batch more; `state` itself is not changed."""
        ...

    def merge(self, a: State, b: State) -> State:
        """State of the examples of `a` and `b` together."""
        ...

    def compute(self, state: State) -> dict[str, float]:
        """Final figures by name."""
        ...


def without_padding(predictions: Any, batch: Mapping[str, Any]) -> Any:
    """The tree's rows whose `batch["weight"]`, where there is one, is not 0."""
    if "weight" not in batch:
        return predictions
    real = np.asarray(batch["weight"]) > 0
    return jax.tree.map(lambda x: np.asarray(x)[real], predictions)


@dataclass(frozen=True)
class Mean:
    """Weighted means of what loss terms return: (sum, weight) per name.

    Sums are kept in float64, so that a mean over millions of steps does not lose the small ones.
    """

    names: Sequence[str]
    reduction: Literal["sum"] = "sum"

    def init(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(2) for name in self.names}  # sum, weight

    def update(
        self,
        state: dict[str, np.ndarray],
        predictions: Mapping[str, tuple[Any, Any]],
        batch: Mapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """Adds `predictions[name] = (sum, weight)`; the weights already exclude padding."""
        return {n: state[n] + np.asarray(predictions[n], np.float64) for n in self.names}

    def merge(self, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: a[name] + b[name] for name in self.names}

    def compute(self, state: dict[str, np.ndarray]) -> dict[str, float]:
        """sum / weight per name; NaN where nothing was counted."""
        return {n: float(s / w) if w > 0 else float("nan") for n, (s, w) in state.items()}


def ratio(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """sum(values) / sum(weights), their mean where there are no weights; 0 where both are nothing.

    Precision, recall and F1 are such figures, of two numbers per example.
    """
    if weights is None:
        return float(np.mean(values))
    total = float(np.sum(weights))
    return float(np.sum(values)) / total if total else 0.0
