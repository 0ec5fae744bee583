"""Losses over all pairs of the global batch: row i's positive is column i, the rest is negative.

One term serves photo retrieval, captioned photos and anything else with two towers. What is a
negative is decided here, once, for every loss: never a padding row, never a pair that shares a key
(the same photo under two dialogues is no mistake of the model). Under `jit` the arrays are global,
so that the loss over a mesh is the loss over the whole batch, not a mean of per-device losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.parallel.rules import constrain


@runtime_checkable
class PairLoss(Protocol):
    """What makes per-example losses from scores; both directions (rows, columns) are added up."""

    def per_example(
        self, scores: Float[Array, "B B"], negative: Bool[Array, "B B"]
    ) -> Float[Array, " B"]:
        """Loss of row i plus loss of column i; finite where no pair is negative."""
        ...


@dataclass(frozen=True)
class SoftmaxCE:
    """Bidirectional in-batch softmax: -log p(column i | row i) - log p(row i | column i).

    PhotoChat (Zang et al., ACL 2021), its loss CE, with the positive pair in the sums: without it
    the formula is no cross-entropy and has no lower bound. Without negatives the loss is 0.
    """

    def per_example(
        self, scores: Float[Array, "B B"], negative: Bool[Array, "B B"]
    ) -> Float[Array, " B"]:
        positive = _diagonal(scores)
        # The diagonal stays in every sum, so that no row is empty and no gradient is 0/0.
        allowed = negative | _eye(scores)
        logits = jnp.where(allowed, scores, -jnp.inf)  # [B, B]
        row = jax.nn.logsumexp(logits, axis=1) - positive
        column = jax.nn.logsumexp(logits, axis=0) - positive
        return row + column


@dataclass(frozen=True)
class SumHinge:
    """Sum over negatives of [margin - s(i, i) + s(i, j)]_+, in both directions ("SH").

    PhotoChat (Zang et al., ACL 2021), its loss SH. The margin is in units of the scaled scores.
    """

    margin: float = 0.2

    def per_example(
        self, scores: Float[Array, "B B"], negative: Bool[Array, "B B"]
    ) -> Float[Array, " B"]:
        row, column = _hinges(scores, negative, self.margin)
        return row.sum(axis=1) + column.sum(axis=0)


@dataclass(frozen=True)
class HardestHinge:
    """As SumHinge, but only the negative with the highest score counts in each direction ("MH").

    VSE++ (Faghri et al., BMVC 2018), its loss MH. Equally hard negatives share the gradient.
    """

    margin: float = 0.2

    def per_example(
        self, scores: Float[Array, "B B"], negative: Bool[Array, "B B"]
    ) -> Float[Array, " B"]:
        row, column = _hinges(scores, negative, self.margin)
        return row.max(axis=1) + column.max(axis=0)


def pair_term(
    rows: Float[Array, "B D"],
    columns: Float[Array, "B D"],
    *,
    loss: PairLoss,
    scale: Float[Array, ""] | float = 1.0,
    keys: Int[Array, "B K"] | None = None,
    weights: Float[Array, " B"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum of the examples' losses, sum of their weights) over the global batch, in float32.

    The caller divides (mean) or does not (sum). An example's loss is the loss of its row plus the
    loss of its column. Scores are `scale * rows @ columns.T`, accumulated in float32 for inputs of
    any float type (float64 under x64).

    Args:
      rows, columns: embeddings of the two towers; row i's positive is column i.
      loss: SoftmaxCE, SumHinge or HardestHinge.
      scale: factor on the scores, > 0; 1 / temperature.
      keys: ids per example (photo, label set, ...). A pair i != j with the same id >= 0 in the
        same column of `keys` is no negative. An id below 0 means "has none" and equals nothing.
      weights: 1 for examples, 0 for padding, which is neither row nor column and weighs nothing,
        whatever its embeddings hold (NaN included).

    An example without any negative (batch of one, all keys equal) has loss 0 and gradient 0; an
    all-padding batch gives (0, 0). A NaN in the embedding of a real example makes the sum NaN.
    """
    scores = scale * _similarities(rows, columns, weights)  # [B, B]
    scores = constrain(scores, "batch", None)
    losses = loss.per_example(scores, _negatives(scores, keys, weights))  # [B]
    if weights is None:
        return losses.sum(), jnp.full((), losses.shape[0], losses.dtype)
    weights = weights.astype(losses.dtype)
    # where, and not only the product: 0 * inf would poison the sum.
    return (jnp.where(weights > 0, losses, 0) * weights).sum(), weights.sum()


def pair_accuracy(
    rows: Float[Array, "B D"],
    columns: Float[Array, "B D"],
    *,
    keys: Int[Array, "B K"] | None = None,
    weights: Float[Array, " B"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum, weight) of "the row's own column scores highest", among its negatives in the batch.

    Arguments as in `pair_term`; beside it in one `jit` the scores are computed once. A tie between
    the positive and n negatives counts 1 / (n + 1), the expectation under random order. A NaN among
    a row's scores counts as a miss.
    """
    scores = constrain(_similarities(rows, columns, weights), "batch", None)  # [B, B]
    negative = _negatives(scores, keys, weights)
    positive = _diagonal(scores)[:, None]
    # "not <=" and not ">": a NaN must never look like a win.
    beaten = (negative & ~(scores <= positive)).any(axis=1)
    ties = (negative & (scores == positive)).sum(axis=1)
    credit = jnp.where(beaten | jnp.isnan(positive[:, 0]), 0.0, 1.0 / (1 + ties))
    weights = jnp.ones_like(credit) if weights is None else weights.astype(credit.dtype)
    return (credit * weights).sum(), weights.sum()


def _similarities(
    rows: Float[Array, "B D"], columns: Float[Array, "B D"], weights: Float[Array, " B"] | None
) -> Float[Array, "B B"]:
    if weights is not None:
        # Not only masked later: 0 * NaN in the backward product would reach real rows.
        real = (weights > 0)[:, None]
        rows, columns = jnp.where(real, rows, 0), jnp.where(real, columns, 0)
    dtype = jnp.promote_types(jnp.result_type(rows, columns), jnp.float32)
    # "highest" keeps float32 inputs float32 on a TPU; for bfloat16 inputs it changes nothing.
    return jnp.einsum("id,jd->ij", rows, columns, precision="highest", preferred_element_type=dtype)


def _negatives(
    scores: Float[Array, "B B"],
    keys: Int[Array, "B K"] | None,
    weights: Float[Array, " B"] | None,
) -> Bool[Array, "B B"]:
    negative = ~_eye(scores)
    if weights is not None:
        real = weights > 0
        negative &= real[:, None] & real[None, :]
    if keys is not None:
        for k in range(keys.shape[1]):  # column by column: never a [B, B, K] array
            key = keys[:, k]
            negative &= (key[:, None] != key[None, :]) | (key < 0)[:, None]
    return negative


def _hinges(
    scores: Float[Array, "B B"], negative: Bool[Array, "B B"], margin: float
) -> tuple[Float[Array, "B B"], Float[Array, "B B"]]:
    positive = _diagonal(scores)
    row = jnp.where(negative, jax.nn.relu(margin - positive[:, None] + scores), 0)
    column = jnp.where(negative, jax.nn.relu(margin - positive[None, :] + scores), 0)
    return row, column


def _diagonal(scores: Float[Array, "B B"]) -> Float[Array, " B"]:
    # A masked sum stays on the shard that holds the row, where jnp.diagonal would gather; and it is
    # the very number in the matrix, so that a lone example's loss is exactly 0.
    return jnp.where(_eye(scores), scores, 0).sum(axis=1)


def _eye(scores: Float[Array, "B B"]) -> Bool[Array, "B B"]:
    return jnp.eye(scores.shape[0], dtype=bool)
