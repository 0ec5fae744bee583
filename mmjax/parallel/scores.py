"""How well a row fits a column: what losses over pairs and rankings ask of a score."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Tree = Any
Row = Float[Array, " r"]
Scores = Float[Array, "r c"]


class Score(abc.ABC):
    """How well rows fit columns: trees of arrays whose first axis numbers them.

    Gradients flow to the floating leaves; others (masks, lengths) only inform. Hashable, so that
    it can be static under `jit`: what is learned comes in with the rows, a value for each. Rows
    and columns that stand for no example are all zeros and False: the score must be finite there,
    and so must its derivatives.
    """

    @abc.abstractmethod
    def __call__(self, rows: Tree, columns: Tree) -> Scores:
        """Every row against every column, float32 or wider."""

    def paired(self, rows: Tree, columns: Tree) -> Row:
        """Row i against column i; trees of equal length."""

        def one(row: Tree, column: Tree) -> Float[Array, ""]:
            return self(*(jax.tree.map(lambda x: x[None], tree) for tree in (row, column)))[0, 0]

        return jax.vmap(one)(rows, columns)

    def alike(self, rows: Tree) -> Iterator[tuple[np.ndarray, Tree]]:
        """Parts of the rows that are quicker to score apart: their numbers, and them.

        On the host, of numpy arrays; every row is in one part. A score over sequences leaves
        padding out so.
        """
        yield np.arange(len(jax.tree.leaves(rows)[0])), rows


@dataclass(frozen=True)
class DotProduct(Score):
    """The dot product of embeddings [B, D], accumulated in float32 (float64 for float64 inputs)."""

    def __call__(self, rows: Float[Array, "r D"], columns: Float[Array, "c D"]) -> Scores:
        # "highest" keeps float32 inputs float32 on a TPU; for bfloat16 inputs it changes nothing.
        return jnp.einsum(
            "id,jd->ij",
            rows,
            columns,
            precision="highest",
            preferred_element_type=accumulated(rows, columns),
        )

    def paired(self, rows: Float[Array, "r D"], columns: Float[Array, "r D"]) -> Row:
        dtype = accumulated(rows, columns)
        return (rows.astype(dtype) * columns.astype(dtype)).sum(axis=-1)


@dataclass(frozen=True)
class SquaredDistance(Score):
    """-|r - c|^2 of vectors [B, D], as 2 r c - |r|^2 - |c|^2: the nearest has the highest score."""

    def __call__(self, rows: Float[Array, "r D"], columns: Float[Array, "c D"]) -> Scores:
        dtype = accumulated(rows, columns)
        squares = [jnp.square(x.astype(dtype)).sum(axis=-1) for x in (rows, columns)]
        return 2 * DOT_PRODUCT(rows, columns) - squares[0][:, None] - squares[1]


DOT_PRODUCT, SQUARED_DISTANCE = DotProduct(), SquaredDistance()


def accumulated(*trees: Tree) -> jnp.dtype:
    """The type that scores are summed in: float32, or float64 where an array is."""
    types = [x.dtype for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.result_type(jnp.float32, *types)


def floating(tree: Tree) -> Tree:
    """The tree with None at the leaves that have no gradients: masks, lengths, ids."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)
