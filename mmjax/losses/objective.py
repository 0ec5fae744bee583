"""What is minimised: a weighted list of terms over a model's outputs and the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mmjax.losses.pairwise import pair_term
from mmjax.parallel.ring import Reduction
from mmjax.parallel.scores import DOT_PRODUCT, Score

Outputs = Mapping[str, Any]
Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class LocalTerm:
    """A loss of single examples.

    Attributes:
      fn: (outputs, batch) -> (sum of losses, sum of weights), both float32 scalars.
    """

    name: str
    fn: Callable[[Outputs, Batch], tuple[jax.Array, jax.Array]]
    weight: float = 1.0

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, weight = self.fn(outputs, batch)
        return total / jnp.maximum(weight, 1.0), {}


@dataclasses.dataclass(frozen=True)
class PairTerm:
    """A loss of every row against every column of the global batch; row i belongs to column i.

    Reads `batch["keys"]` (equal examples are no negatives) and `batch["weight"]` (padding).

    Attributes:
      rows, columns: names of two outputs, trees of arrays [B, ...] as `score` reads them; for the
        dot product [B, D].
      scale: name of the output that multiplies the scores.
      bias: name of the output that is added to them; None: nothing is.
      reduction: "mean" over the batch, or "sum" as VSE++ and SCAN take it.
      key_columns: columns of `batch["keys"]` that count; None: all.
      tile: rows and columns of the scores that exist at a time, on each device.
    """

    name: str
    rows: str
    columns: str
    scale: str
    loss: Reduction
    weight: float = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    key_columns: tuple[int, ...] | None = None
    bias: str | None = None
    score: Score = DOT_PRODUCT
    tile: tuple[int, int] = (256, 256)

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows, columns = outputs[self.rows], outputs[self.columns]
        keys = batch["keys"]
        if self.key_columns is not None:
            keys = keys[:, list(self.key_columns)]
        sums = pair_term(
            rows,
            columns,
            loss=self.loss,
            score=self.score,
            scale=outputs[self.scale],
            bias=0.0 if self.bias is None else outputs[self.bias],
            keys=keys,
            weights=batch["weight"],
            tile=self.tile,
        )
        weight = jnp.maximum(sums.weight, 1.0)
        value = sums.total if self.reduction == "sum" else sums.total / weight
        return value, {"accuracy": sums.right / weight}


@dataclasses.dataclass(frozen=True)
class Objective:
    """The weighted sum of its terms."""

    terms: Sequence[LocalTerm | PairTerm]

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss and named values for the log, all float32 scalars."""
        loss, values = jnp.zeros((), jnp.float32), {}
        for term in self.terms:
            value, extra = term(outputs, batch)
            loss += term.weight * value
            prefix = f"{term.name}/" if len(self.terms) > 1 else ""
            values |= {f"{prefix}{name}": x for name, x in extra.items()}
            if prefix:
                values[f"{prefix}loss"] = value
        return loss, {"loss": loss, **values}
