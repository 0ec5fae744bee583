"""Losses over all pairs of the global batch: row i's positive is column i, the rest is negative.

One term serves photo retrieval, captioned photos and anything else with two towers. What is a
negative is decided in one place, for every loss: never a padding row, never a pair that shares a
key (the same photo under two dialogues is no mistake of the model). The loss over a mesh is the
loss over the whole batch, not a mean of per-device losses; the matrix of all scores is never made
(`mmjax.parallel.ring`).

A loss says what becomes of a row's negatives (`mmjax.parallel.ring.Reduction`): what is kept of
them tile by tile, the row's loss, and its derivative by each score. Columns are rows of the
transpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.parallel.ring import Carry, Mask, Pairs, Reduction, Row, Tile


@dataclass(frozen=True)
class SoftmaxCE:
    """Bidirectional in-batch softmax: -log p(column i | row i) - log p(row i | column i).

    PhotoChat (Zang et al., ACL 2021), its loss CE, with the positive pair in the sums: without it
    the formula is no cross-entropy and has no lower bound. Without negatives the loss is 0.
    """

    both = True

    def start(self, positive: Row) -> Carry:
        # The positive is in every sum, so that none is empty: largest score, sum of exponents.
        return positive, jnp.ones_like(positive)

    def fold(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Carry:
        largest, total = carry
        scores = jnp.where(negative, scores, -jnp.inf)
        new = jnp.maximum(largest, scores.max(axis=1))
        total = total * jnp.exp(largest - new) + jnp.exp(scores - new[:, None]).sum(axis=1)
        return new, total

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0] + jnp.log(carry[1]) - positive

    def slopes(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Tile:
        share = jnp.exp(scores - carry[0][:, None]) / carry[1][:, None]
        return jnp.where(negative, share, 0)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return jnp.exp(positive - carry[0]) / carry[1] - 1


@dataclass(frozen=True)
class SumHinge:
    """Sum over negatives of [margin - s(i, i) + s(i, j)]_+, in both directions ("SH").

    PhotoChat (Zang et al., ACL 2021), its loss SH. The margin is in units of the scaled scores.
    """

    margin: float = 0.2
    both = True

    def start(self, positive: Row) -> Carry:
        return jnp.zeros_like(positive), jnp.zeros_like(positive)  # sum; number above the margin

    def fold(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Carry:
        cost = _hinge(self.margin, scores, positive, negative)
        return carry[0] + cost.sum(axis=1), carry[1] + (cost > 0).sum(axis=1)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0]

    def slopes(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Tile:
        return (_hinge(self.margin, scores, positive, negative) > 0).astype(scores.dtype)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return -carry[1]


@dataclass(frozen=True)
class HardestHinge:
    """As SumHinge, but only the negative with the highest score counts in each direction ("MH").

    VSE++ (Faghri et al., BMVC 2018), its loss MH. Equally hard negatives share the gradient.
    """

    margin: float = 0.2
    both = True

    def start(self, positive: Row) -> Carry:
        return jnp.zeros_like(positive), jnp.zeros_like(positive)  # largest cost; how many have it

    def fold(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Carry:
        cost = _hinge(self.margin, scores, positive, negative)
        most = jnp.maximum(carry[0], cost.max(axis=1))
        here = ((cost == most[:, None]) & (cost > 0)).sum(axis=1)
        return most, jnp.where(carry[0] == most, carry[1], 0) + here

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0]

    def slopes(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Tile:
        cost = _hinge(self.margin, scores, positive, negative)
        hardest = (cost > 0) & (cost == carry[0][:, None])
        return jnp.where(hardest, 1 / jnp.maximum(carry[1], 1)[:, None], 0)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return -(carry[1] > 0).astype(positive.dtype)


@dataclass(frozen=True)
class Sigmoid:
    """Each pair on its own: -log sigma(s) for positives, -log sigma(-s) for negatives.

    SigLIP (Zhai et al., ICCV 2023), equation 1; its bias is part of the scores.
    """

    both = False

    def start(self, positive: Row) -> Carry:
        return (jax.nn.softplus(-positive),)

    def fold(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Carry:
        return (carry[0] + jnp.where(negative, jax.nn.softplus(scores), 0).sum(axis=1),)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0]

    def slopes(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Tile:
        return jnp.where(negative, jax.nn.sigmoid(scores), 0)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return -jax.nn.sigmoid(-positive)


class PairSums(NamedTuple):
    """Sums over the global batch, float32 scalars.

    total: of the examples' losses.
    weight: of their weights; the caller divides by it (mean) or does not (sum).
    right: of the weights of rows whose own column scores higher than all negatives; a tie with n
      of them counts 1 / (n + 1), the expectation under random order. No gradient.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    right: Float[Array, ""]


def pair_term(
    rows: Float[Array, "B D"],
    columns: Float[Array, "B D"],
    *,
    loss: Reduction,
    scale: Float[Array, ""] | float = 1.0,
    bias: Float[Array, ""] | float = 0.0,
    keys: Int[Array, "B K"] | None = None,
    weights: Float[Array, " B"] | None = None,
    tile: tuple[int, int] = (256, 256),
) -> PairSums:
    """The loss of every example against the global batch, summed.

    An example's loss is the loss of its row plus the loss of its column. Scores are
    `scale * rows @ columns.T + bias`, accumulated in float32 for inputs of any float type (float64
    under x64).

    Args:
      rows, columns: embeddings of the two towers; row i's positive is column i.
      loss: SoftmaxCE, SumHinge, HardestHinge or Sigmoid.
      scale: factor on the scores, > 0; 1 / temperature.
      bias: added to them; only Sigmoid depends on it.
      keys: ids per example (photo, label set, ...). A pair i != j with the same id >= 0 in the
        same column of `keys` is no negative. An id below 0 means "has none" and equals nothing.
      weights: 1 for examples, 0 for padding, which is neither row nor column and weighs nothing,
        whatever its embeddings hold (NaN included).
      tile: rows and columns of the scores that exist at a time, on each device.

    An example without any negative (batch of one, all keys equal) has loss 0 and gradient 0, but
    for Sigmoid, which judges the positive too; an all-padding batch gives zeros. A NaN in the
    embedding of a real example makes the total NaN, and no example with that negative right.
    """
    real = jnp.ones(rows.shape[0], bool) if weights is None else weights > 0
    # Not only masked later: 0 * NaN in the backward product would reach real rows.
    rows, columns = (jnp.where(real[:, None], x, 0) for x in (rows, columns))
    if keys is None:
        keys = jnp.zeros((rows.shape[0], 0), jnp.int32)
    dtype = jnp.promote_types(jnp.result_type(rows, columns), jnp.float32)
    # One value per row, so that the sum of their gradients is made outside of the ring.
    scales, biases = (jnp.broadcast_to(jnp.asarray(x, dtype), real.shape) for x in (scale, bias))
    pairs = Pairs(Counted(loss), _scores, _own_scores, tile)
    losses, carry = pairs(
        {"x": rows, "scale": scales, "bias": biases}, {"x": columns}, {"real": real, "keys": keys}
    )  # [B]
    weights = real.astype(dtype) if weights is None else weights.astype(dtype)
    beaten, ties = carry[-2:]
    credit = jnp.where(beaten > 0, 0, 1 / (1 + ties))
    # where, and not only the product: 0 * inf would poison the sum.
    total = (jnp.where(real, losses, 0) * weights).sum()
    return PairSums(total, weights.sum(), jax.lax.stop_gradient(credit * weights).sum())


@dataclass(frozen=True)
class Counted:
    """A loss that also counts the negatives above and level with the positive."""

    loss: Reduction

    @property
    def both(self) -> bool:
        return self.loss.both

    def start(self, positive: Row) -> Carry:
        # A positive that is no number is beaten from the start.
        return (
            *self.loss.start(positive),
            jnp.isnan(positive).astype(positive.dtype),
            jnp.zeros_like(positive),
        )

    def fold(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Carry:
        *kept, beaten, ties = carry
        own = positive[:, None]
        # "not <=" and not ">": a NaN must never look like a win.
        beaten += (negative & ~(scores <= own)).sum(axis=1)
        ties += (negative & (scores == own)).sum(axis=1)
        return (*self.loss.fold(tuple(kept), scores, positive, negative), beaten, ties)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return self.loss.losses(carry[:-2], positive)

    def slopes(self, carry: Carry, scores: Tile, positive: Row, negative: Mask) -> Tile:
        return self.loss.slopes(carry[:-2], scores, positive, negative)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return self.loss.positive_slopes(carry[:-2], positive)


def _hinge(margin: float, scores: Tile, positive: Row, negative: Mask) -> Tile:
    return jnp.where(negative, jax.nn.relu(margin - positive[:, None] + scores), 0)


def _scores(rows: Any, columns: Any) -> Float[Array, "r c"]:
    """A tile of the scores."""
    x, y = rows["x"], columns["x"]
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    # "highest" keeps float32 inputs float32 on a TPU; for bfloat16 inputs it changes nothing.
    found = jnp.einsum("id,jd->ij", x, y, precision="highest", preferred_element_type=dtype)
    return rows["scale"][:, None] * found + rows["bias"][:, None]


def _own_scores(rows: Any, columns: Any) -> Float[Array, " r"]:
    """The diagonal: each row with its own column."""
    x, y = rows["x"], columns["x"]
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return rows["scale"] * (x.astype(dtype) * y.astype(dtype)).sum(axis=-1) + rows["bias"]
