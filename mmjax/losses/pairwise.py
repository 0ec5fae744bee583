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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.parallel.ring import Carry, Pairs, Reduction, Tile
from mmjax.parallel.scores import DOT_PRODUCT, Row, Score, Scores, Tree, accumulated


@dataclass(frozen=True)
class SoftmaxCE:
    """Bidirectional in-batch softmax: -log p(column i | row i) - log p(row i | column i).

    PhotoChat (Zang et al., ACL 2021), its loss CE, with the positive pair in the sums: without it
    the formula is no cross-entropy and has no lower bound. Without negatives the loss is 0.

    `both=False`: the first half alone, which asks columns of rows (TransResNet).
    """

    both: bool = True

    def start(self, positive: Row) -> Carry:
        # The positive is in every sum, so that none is empty: largest score, sum of exponents.
        return positive, jnp.ones_like(positive)

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        largest, total = carry
        scores = jnp.where(tile.negative, tile.scores, -jnp.inf)
        new = jnp.maximum(largest, scores.max(axis=1))
        total = total * jnp.exp(largest - new) + jnp.exp(scores - new[:, None]).sum(axis=1)
        return new, total

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0] + jnp.log(carry[1]) - positive

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        share = jnp.exp(tile.scores - carry[0][:, None]) / carry[1][:, None]
        return jnp.where(tile.negative, share, 0)

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

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        cost = _hinge(self.margin, tile)
        return carry[0] + cost.sum(axis=1), carry[1] + (cost > 0).sum(axis=1)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0]

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        return (_hinge(self.margin, tile) > 0).astype(tile.scores.dtype)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return -carry[1]


@dataclass(frozen=True)
class HardestHinge:
    """As SumHinge, but only the negative with the highest score counts in each direction ("MH").

    VSE++ (Faghri et al., BMVC 2018), its loss MH. Of equally hard negatives the first counts.
    """

    margin: float = 0.2
    both = True

    def start(self, positive: Row) -> Carry:
        # The largest cost, and whose it is: its value would not find it again in the backward pass.
        return jnp.zeros_like(positive), jnp.full_like(positive, -1, jnp.int32)

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        most, hardest = carry
        cost = _hinge(self.margin, tile)
        here = cost.max(axis=1)
        level = cost == here[:, None]
        number = jnp.where(level, tile.numbers, jnp.iinfo(jnp.int32).max).min(axis=1)
        first = (here > most) | ((here == most) & (here > 0) & (number < hardest))
        return jnp.maximum(most, here), jnp.where(first, number, hardest)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0]

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        hardest = tile.negative & (carry[1][:, None] == tile.numbers)
        return hardest.astype(tile.scores.dtype)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return -(carry[1] >= 0).astype(positive.dtype)


@dataclass(frozen=True)
class Sigmoid:
    """Each pair on its own: -log sigma(s) for positives, -log sigma(-s) for negatives.

    SigLIP (Zhai et al., ICCV 2023), equation 1; its bias is part of the scores.
    """

    both = False

    def start(self, positive: Row) -> Carry:
        return (jax.nn.softplus(-positive),)

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        costs = jnp.where(tile.negative, jax.nn.softplus(tile.scores), 0)
        return (carry[0] + costs.sum(axis=1),)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return carry[0]

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        return jnp.where(tile.negative, jax.nn.sigmoid(tile.scores), 0)

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
    rows: Tree,
    columns: Tree,
    *,
    loss: Reduction,
    score: Score = DOT_PRODUCT,
    scale: Float[Array, ""] | float = 1.0,
    bias: Float[Array, ""] | float = 0.0,
    keys: Int[Array, "B K"] | None = None,
    weights: Float[Array, " B"] | None = None,
    tile: tuple[int, int] = (256, 256),
) -> PairSums:
    """The loss of every example against the global batch, summed.

    An example's loss is the loss of its row plus the loss of its column. Scores are
    `scale * score(rows, columns) + bias`.

    Args:
      rows, columns: what `score` reads of the two sides, trees of arrays [B, ...]; for the dot
        product embeddings [B, D] of any float type. Row i's positive is column i.
      loss: SoftmaxCE, SumHinge, HardestHinge or Sigmoid.
      scale: factor on the scores, > 0; 1 / temperature.
      bias: added to them; only Sigmoid depends on it.
      keys: ids per example (photo, label set, ...). A pair i != j with the same id >= 0 in the
        same column of `keys` is no negative. An id below 0 means "has none" and equals nothing.
      weights: of the examples' losses, >= 0. 0 is padding, which is neither row nor column and
        weighs nothing, whatever its arrays hold (NaN included).
      tile: rows and columns of the scores that exist at a time, on each device; the fewer, the
        more a single score needs.

    An example without any negative (batch of one, all keys equal) has loss 0 and gradient 0, but
    for Sigmoid, which judges the positive too; an all-padding batch gives zeros. A NaN in a real
    example makes the total NaN, and no example with that negative right.
    """
    B = jax.tree.leaves(rows)[0].shape[0]
    real = jnp.ones(B, bool) if weights is None else weights > 0
    # Not only masked later: 0 * NaN in the backward product would reach real rows.
    rows, columns = _where_real(real, rows), _where_real(real, columns)
    if keys is None:
        keys = jnp.zeros((B, 0), jnp.int32)
    dtype = accumulated(rows, columns)
    # One value per row, so that the sum of their gradients is made outside of the ring.
    scales, biases = (jnp.broadcast_to(jnp.asarray(x, dtype), real.shape) for x in (scale, bias))
    pairs = Pairs(Counted(loss), Scaled(score), tile)
    losses, carry = pairs(
        {"x": rows, "scale": scales, "bias": biases}, columns, {"real": real, "keys": keys}
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

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        *kept, beaten, ties = carry
        own = tile.positive[:, None]
        # The two may be sums in another order: up to rounding, the same is level.
        level = 32 * jnp.finfo(own.dtype).eps * jnp.abs(own)
        # "not <=" and not ">": a NaN must never look like a win.
        beaten += (tile.negative & ~(tile.scores <= own + level)).sum(axis=1)
        ties += (tile.negative & (jnp.abs(tile.scores - own) <= level)).sum(axis=1)
        return (*self.loss.fold(tuple(kept), tile), beaten, ties)

    def losses(self, carry: Carry, positive: Row) -> Row:
        return self.loss.losses(carry[:-2], positive)

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        return self.loss.slopes(carry[:-2], tile)

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        return self.loss.positive_slopes(carry[:-2], positive)


@dataclass(frozen=True)
class Scaled(Score):
    """`scale * score + bias`, of rows {"x": what the score reads, "scale": [r], "bias": [r]}."""

    score: Score

    def __call__(self, rows: Tree, columns: Tree) -> Scores:
        found = self.score(rows["x"], columns)
        return rows["scale"][:, None] * found + rows["bias"][:, None]

    def paired(self, rows: Tree, columns: Tree) -> Row:
        return rows["scale"] * self.score.paired(rows["x"], columns) + rows["bias"]


def _hinge(margin: float, tile: Tile) -> Scores:
    costs = jax.nn.relu(margin - tile.positive[:, None] + tile.scores)
    return jnp.where(tile.negative, costs, 0)


def _where_real(real: Bool[Array, " B"], tree: Tree) -> Tree:
    """Padding's arrays all zeros and False."""

    def one(x: Array) -> Array:
        return jnp.where(real.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, tree)
