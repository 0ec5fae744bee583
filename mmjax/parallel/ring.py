"""Every row against every column of the global batch, and never the matrix of all scores.

Each device keeps its rows while the other devices' columns pass by on a ring over the batch's mesh
axes, with what has been reduced for them so far; so both directions come from one pass. Within a
device the scores are made in tiles. The backward pass makes the tiles again: between the passes
only one value or two per row and column are kept. What is reduced, a `Reduction` says; how a score
is made, a `Score` over trees: a dot product, or attention between regions and words.

A device sends B D (2 s + 4) bytes over the interconnect, however many there are: the columns of
the batch's B examples, D values of s bytes each, forward and again backward, and backward their
gradients in float32; beside these a few numbers per example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mmjax.parallel import rules
from mmjax.parallel.scores import Row, Score, Scores, Tree, floating

Carry = tuple[Array, ...]


class Tile(NamedTuple):
    """Some rows against some columns.

    scores: of every row against every column.
    positive: score of each row with its own column, wherever that is.
    negative: which of the pairs count.
    numbers: of the columns in the global batch.
    """

    scores: Scores
    positive: Row
    negative: Bool[Array, "r c"]
    numbers: Int[Array, " c"]


class Reduction(Protocol):
    """Folds the scores of a row against its negatives, tile by tile, into one loss per row.

    Columns are folded by the same methods on the transposed tile. `slopes` sees the scores made
    again, in another part of the compiled program: they may differ from those of `fold` in the last
    bits.

    Attributes:
      both: whether columns are folded too.
    """

    both: bool

    def start(self, positive: Row) -> Carry:
        """Before any negative; arrays [r]."""

    def fold(self, carry: Carry, tile: Tile) -> Carry:
        """With the tile's negatives."""

    def losses(self, carry: Carry, positive: Row) -> Row:
        """After all of them."""

    def slopes(self, carry: Carry, tile: Tile) -> Scores:
        """Derivative of the final `losses` by each score of the tile."""

    def positive_slopes(self, carry: Carry, positive: Row) -> Row:
        """Derivative of the final `losses` by the positive score."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """How a global batch of pairs is reduced; hashable, so that it can be static under `jit`.

    Attributes:
      tile: rows and columns of a tile.
    """

    reduction: Reduction
    score: Score
    tile: tuple[int, int] = (256, 256)

    def __call__(self, rows: Tree, columns: Tree, marks: Tree) -> tuple[Float[Array, " B"], Carry]:
        """Losses of the rows plus, where both are folded, of the columns; and the rows' carry.

        Args:
          rows, columns: trees of arrays [B, ...]; row i's positive is column i.
          marks: {"real": bool [B], "keys": int [B, K]}: pairs of real examples that share no key
            >= 0 are negatives of each other. No gradient.

        Gradients flow through the losses to the floating leaves of `rows` and `columns`.
        """
        B = marks["real"].shape[0]
        marks = {**marks, "index": jnp.arange(B, dtype=jnp.int32)}
        mesh, axes = jax.sharding.get_abstract_mesh(), _axes()
        n = int(np.prod([mesh.shape[a] for a in axes])) if axes else 1
        if n == 1 or B % n:
            return _local(self, (), 1, rows, columns, marks)
        spec = PartitionSpec(axes)
        return jax.shard_map(
            partial(_local, self, axes, n),
            in_specs=spec,
            out_specs=spec,
            axis_names=set(axes),
        )(rows, columns, marks)


def _axes() -> tuple[str, ...]:
    """The mesh axes that cut the batch, under the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ()
    named = rules.LOGICAL_RULES["batch"]
    return tuple(a for a in named if mesh.shape[a] > 1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _local(
    pairs: Pairs, axes: Sequence[str], n: int, rows: Tree, columns: Tree, marks: Tree
) -> tuple[Array, Carry]:
    """One device's part: its rows, and its columns on their way round."""
    return _forward(pairs, axes, n, rows, columns, marks)[0]


def _forward(
    pairs: Pairs, axes: Sequence[str], n: int, rows: Tree, columns: Tree, marks: Tree
) -> tuple[tuple[Array, Carry], Any]:
    reduction, (r, c) = pairs.reduction, pairs.tile
    positive = pairs.score.paired(rows, columns)
    mine = _cut({"x": rows, "positive": positive, **marks}, r)
    theirs = _cut({"x": columns, "positive": positive, **marks}, c)
    row_carry = _map_tiles(reduction.start, mine["positive"])
    column_carry = _map_tiles(reduction.start, theirs["positive"]) if reduction.both else ()

    def pass_by(state: Any, _: None) -> tuple[Any, None]:
        row_carry, theirs, column_carry = state

        def over_columns(row_carry: Carry, tile: Any) -> tuple[Carry, Carry]:
            column, carry = tile

            def over_rows(carry: Carry, tile: Any) -> tuple[Carry, Carry]:
                row, row_carry = tile
                scores = pairs.score(row["x"], column["x"])
                negative = _negative(row, column)
                seen = Tile(scores, row["positive"], negative, column["index"])
                row_carry = reduction.fold(row_carry, seen)
                if reduction.both:
                    turned = Tile(scores.T, column["positive"], negative.T, row["index"])
                    carry = reduction.fold(carry, turned)
                return carry, row_carry

            carry, row_carry = jax.lax.scan(over_rows, carry, (mine, row_carry))
            return row_carry, carry

        row_carry, column_carry = jax.lax.scan(over_columns, row_carry, (theirs, column_carry))
        return (row_carry, *_onward((theirs, column_carry), axes, n)), None

    row_carry, column_carry = _varying((row_carry, column_carry), axes)
    state = (row_carry, theirs, column_carry)
    (row_carry, _, column_carry), _ = jax.lax.scan(pass_by, state, None, length=n)
    b = positive.shape[0]
    row_carry, column_carry = _joined(row_carry, b), _joined(column_carry, b)
    losses = reduction.losses(row_carry, positive)
    if reduction.both:
        losses += reduction.losses(column_carry, positive)
    saved = (rows, columns, marks, positive, row_carry, column_carry)
    return (losses, row_carry), saved


def _backward(pairs: Pairs, axes: Sequence[str], n: int, saved: Any, cotangents: Any) -> Any:
    rows, columns, marks, positive, row_carry, column_carry = saved
    reduction, (r, c) = pairs.reduction, pairs.tile
    slope = cotangents[0]  # [b]
    mine = _cut({"x": rows, "positive": positive, "by": slope, "carry": row_carry, **marks}, r)
    theirs = _cut(
        {"x": columns, "positive": positive, "by": slope, "carry": column_carry, **marks}, c
    )

    def pass_by(state: Any, _: None) -> tuple[Any, None]:
        to_rows, theirs, to_columns = state

        def over_columns(to_rows: Tree, tile: Any) -> tuple[Tree, Tree]:
            column, to_column = tile

            def over_rows(to_column: Tree, tile: Any) -> tuple[Tree, Tree]:
                row, to_row = tile
                scores, back = jax.vjp(pairs.score, row["x"], column["x"])
                negative = _negative(row, column)
                seen = Tile(scores, row["positive"], negative, column["index"])
                by = row["by"][:, None] * reduction.slopes(row["carry"], seen)
                if reduction.both:
                    turned = Tile(scores.T, column["positive"], negative.T, row["index"])
                    by += column["by"][None, :] * reduction.slopes(column["carry"], turned).T
                dx, dy = back(by.astype(scores.dtype))
                return _plus(to_column, floating(dy)), _plus(to_row, floating(dx))

            to_column, to_rows = jax.lax.scan(over_rows, to_column, (mine, to_rows))
            return to_rows, to_column

        to_rows, to_columns = jax.lax.scan(over_columns, to_rows, (theirs, to_columns))
        return (to_rows, *_onward((theirs, to_columns), axes, n)), None

    to_rows, to_columns = _varying((_zeros(mine["x"]), _zeros(theirs["x"])), axes)
    state = (to_rows, theirs, to_columns)
    (to_rows, _, to_columns), _ = jax.lax.scan(pass_by, state, None, length=n)

    by = reduction.positive_slopes(row_carry, positive)
    if reduction.both:
        by += reduction.positive_slopes(column_carry, positive)
    _, back = jax.vjp(pairs.score.paired, rows, columns)
    dx, dy = back((slope * by).astype(positive.dtype))
    b = positive.shape[0]
    to_rows = _plus(_joined(to_rows, b), floating(dx))
    to_columns = _plus(_joined(to_columns, b), floating(dy))
    like = partial(jax.tree.map, lambda x, g: None if g is None else g.astype(x.dtype))
    return like(rows, to_rows), like(columns, to_columns), None


_local.defvjp(_forward, _backward)


def _negative(row: Tree, column: Tree) -> Bool[Array, "r c"]:
    """Which pairs of a tile are negatives of each other."""
    negative = row["index"][:, None] != column["index"][None, :]
    negative &= row["real"][:, None] & column["real"][None, :]
    for k in range(row["keys"].shape[1]):  # one after another: never an [r, c, K] array
        key, other = row["keys"][:, k], column["keys"][:, k]
        negative &= (key[:, None] != other[None, :]) | (key < 0)[:, None]
    return negative


def _cut(tree: Tree, size: int) -> Tree:
    """[b, ...] -> [tiles, size, ...]; what is filled up is not real."""

    def one(x: Array) -> Array:
        tiles = -(-x.shape[0] // size) if x.shape[0] > size else 1
        length = min(size, x.shape[0])
        filled = jnp.pad(x, [(0, tiles * length - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
        return filled.reshape(tiles, length, *x.shape[1:])

    return jax.tree.map(one, tree)


def _joined(tree: Tree, b: int) -> Tree:
    """The inverse of `_cut`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:b], tree)


def _map_tiles(function: Callable[[Array], Carry], x: Array) -> Carry:
    return jax.tree.map(lambda y: y.reshape(x.shape), function(x.reshape(-1)))


def _onward(tree: Tree, axes: Sequence[str], n: int) -> Tree:
    """What a device holds, handed to the device before it."""
    if n == 1:
        return tree
    to = [(k, (k - 1) % n) for k in range(n)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, tuple(axes), to), tree)


def _varying(tree: Tree, axes: Sequence[str]) -> Tree:
    """Declares that the values differ between devices, as the carry of a loop must."""
    if not axes:
        return tree
    zero = jax.lax.axis_index(tuple(axes)) * 0  # differs by type; the compiler drops it
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def _zeros(tree: Tree) -> Tree:
    """Accumulators of gradients: float32 at least, whatever the inputs are."""
    tree = floating(tree)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), tree)


def _plus(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)
