"""The best candidates of each query, and its own candidate's rank, in a pool of any size.

Exact. Scores are made a block of candidates at a time and never kept. The top k of float32 vectors
are looked for in two steps: products of the vectors rounded to bfloat16, twice to six times as fast
as the others, say which candidates of a block cannot be among any query's best, by more than the
rounding can be wrong; only what is left is scored exactly. Among those, a row of maxima over groups
says where something can still enter. After the first blocks hardly any candidate is left. Under a
mesh each device searches its own part of the pool, and only what it found is sent.

All exact scores come from products of one shape, so that a pair has the same one, to the last bit,
wherever its candidate lies: vectors that are equal tie, and the answer does not depend on the mesh.

Instead of the dot product any `Score` over trees will do. There are no bounds for it, so that all
of a block's scores are made, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mmjax.parallel import rules
from mmjax.parallel.scores import DOT_PRODUCT, Score, Tree

# Queries and candidates of a block: 16 MiB of scores, which a CPU's last cache holds.
BLOCK = (1024, 4096)

_GROUP = 64  # candidates under one maximum
_PARTS = 16  # of a block: what is left of one is scored in parts of this share of it

Best = tuple[Float[Array, "q k"], Int[Array, "q k"]]


class RankCounts(NamedTuple):
    """Per query, integers [Q]; together they give the rank under any rule for ties.

    greater: candidates with a higher score than the query's own.
    equal: candidates with its score, itself included.
    equal_after: of those, the ones at a larger position.
    """

    greater: Int[Array, " Q"]
    equal: Int[Array, " Q"]
    equal_after: Int[Array, " Q"]


@partial(jax.jit, static_argnames=("k", "score", "block"))
def top_k(
    queries: Tree,
    pool: Tree,
    k: int,
    *,
    score: Score = DOT_PRODUCT,
    ids: Int[Array, " P"] | None = None,
    block: tuple[int, int] = BLOCK,
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """The k largest scores of each query, the largest first, equal ones by increasing id.

    Args:
      queries, pool: trees of arrays [Q, ...] and [P, ...] as `score` reads them; for the dot
        product [Q, D] and [P, D] of any float type, summed in float32 at the highest precision.
        Under a mesh the pool is cut along the batch's axes. Where they do not divide P, it is
        filled up first, which copies it: fill it up with ids below 0 where that is too much.
      k: may exceed P. Made for hundreds at most: the time beside the products grows with k^2.
      score: of queries as rows against candidates as columns.
      ids: names of the candidates, in any order; a row with one below 0 is no candidate. By
        default the position. Beyond int32 they need `jax_enable_x64`.
      block: queries and candidates that are scored at a time.

    Returns:
      Scores float32 and ids, on every device. A score that is NaN or minus infinity never enters;
      where fewer than k others exist, the rest is minus infinity with id -1.

    Raises ValueError where k or a block is below 1, TypeError for ids that are no signed integers.
    """
    if k < 1:
        raise ValueError(f"k={k}: at least one candidate is asked for")
    if ids is not None and not jnp.issubdtype(ids.dtype, jnp.signedinteger):
        raise TypeError(f"ids are {ids.dtype}, not signed integers")
    sizes = _sizes(_length(queries), _length(pool), block)
    # What is bfloat16 already would not be rounded.
    bounded = score == DOT_PRODUCT and not queries.dtype == pool.dtype == jnp.bfloat16

    def search(queries: Tree, rows: Tree) -> Best:
        order = None if ids is None else jnp.argsort(rows["id"])

        def one(queries: Tree) -> Best:
            Q = _length(queries)
            best = jnp.full((Q, k), -jnp.inf), jnp.full((Q, k), -1, id_type)
            enter = _enter_promising if bounded else partial(_enter_all, score)
            enter = partial(enter, queries)
            return _fold_blocks(enter, best, rows, sizes[1], order)

        return _map_queries(one, queries, sizes[0])

    rows = _rows(pool, ids)
    id_type = rows["id"].dtype
    scores, found = _on_each_device(search, queries, rows, sizes[1], PartitionSpec(None, _axes()))
    if scores.shape[1] > k:  # [Q, devices * k]
        scores, found = jax.lax.sort((-scores, found), num_keys=2)
        scores, found = -scores[:, :k], found[:, :k]
    return scores, found


@partial(jax.jit, static_argnames=("score", "block"))
def rank_counts(
    queries: Tree,
    pool: Tree,
    gold: Int[Array, " Q"],
    *,
    score: Score = DOT_PRODUCT,
    block: tuple[int, int] = BLOCK,
) -> RankCounts:
    """How many candidates stand above and beside each query's own; no score is kept.

    Args:
      queries, pool, score, block: as for `top_k`.
      gold: position in the pool of each query's own candidate.

    Returns:
      RankCounts, int32, on every device. A score that is NaN counts as minus infinity, the own one
      too. All three are 0 where `gold` lies outside the pool: there is no such candidate.

    Raises ValueError where a block is below 1.
    """
    P = _length(pool)
    q, c = _sizes(_length(queries), P, block)
    q = min(q, c)  # the own candidates of a block of queries are a block of candidates

    def search(queries: Tree, rows: Tree) -> RankCounts:
        def one(block: Tree) -> RankCounts:
            own = _own_score(score, block["x"], rows, block["gold"], c)
            own = jnp.where((block["gold"] >= 0) & (block["gold"] < P), own, jnp.nan)
            zero = jnp.zeros(own.shape, jnp.int32)
            count = partial(_count, score, block["x"], own, block["gold"])
            return _fold_blocks(count, RankCounts(zero, zero, zero), rows, c)

        counts = _map_queries(one, {"x": queries, "gold": gold.astype(jnp.int32)}, q)
        return jax.tree.map(lambda x: x[None], counts)

    found = _on_each_device(search, queries, _rows(pool, None), c, PartitionSpec(_axes()))
    return jax.tree.map(lambda x: x.sum(0, dtype=jnp.int32), found)  # [devices, Q]


def _sizes(Q: int, P: int, block: tuple[int, int]) -> tuple[int, int]:
    """Queries and candidates of a block. The devices have no say: see this module's text."""
    if min(block) < 1:
        raise ValueError(f"block={block}: at least one query and one candidate")
    blocks = max(1, -(-Q // block[0]))
    groups = max(1, -(-min(P, block[1]) // _GROUP))
    return -(-Q // blocks), groups * _GROUP


def _rows(pool: Tree, ids: Int[Array, " P"] | None) -> Tree:
    return {"x": pool, "id": jnp.arange(_length(pool), dtype=jnp.int32) if ids is None else ids}


def _length(tree: Tree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _axes() -> tuple[str, ...]:
    """The mesh axes that cut the pool, under the current mesh: those of the batch."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ()
    return tuple(a for a in rules.LOGICAL_RULES["batch"] if mesh.shape[a] > 1)


def _on_each_device(
    search: Callable[[Tree, Tree], Tree],
    queries: Tree,
    rows: Tree,
    size: int,
    out: PartitionSpec,
) -> Tree:
    """`search` of all queries in each device's rows, joined along `out`; then on every device.

    It is given at least `size` rows; those that are filled up have the id -1.
    """
    axes = _axes()
    if not axes:
        return search(queries, _filled(rows, size))
    mesh = jax.sharding.get_abstract_mesh()
    n = int(np.prod([mesh.shape[a] for a in axes]))
    P = rows["id"].shape[0]
    found = jax.shard_map(
        lambda queries, rows: search(queries, _filled(rows, size)),
        in_specs=(PartitionSpec(), PartitionSpec(axes)),
        out_specs=out,
        axis_names=set(axes),
    )(queries, _filled(rows, -(-P // n) * n))
    return jax.lax.with_sharding_constraint(found, PartitionSpec())


def _filled(rows: Tree, size: int) -> Tree:
    """At least `size` rows."""
    missing = size - rows["id"].shape[0]
    if missing <= 0:
        return rows
    return {
        "x": jax.tree.map(lambda x: _longer(x, missing), rows["x"]),
        "id": jnp.pad(rows["id"], (0, missing), constant_values=-1),
    }


def _longer(x: Array, rows: int) -> Array:
    """With so many rows of zeros more."""
    return jnp.pad(x, [(0, rows), *[(0, 0)] * (x.ndim - 1)])


def _map_queries(function: Callable[[Tree], Tree], queries: Tree, size: int) -> Tree:
    """`function` of blocks of `size` queries, one after another."""
    Q = _length(queries)
    if size >= Q:
        return function(queries)
    blocks = -(-Q // size)

    def cut(x: Array) -> Array:
        x = _longer(x, blocks * size - Q)
        return x.reshape(blocks, size, *x.shape[1:])

    found = jax.lax.map(function, jax.tree.map(cut, queries))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:Q], found)


def _fold_blocks(
    function: Callable[[Tree, Tree, Array], Tree],
    carry: Tree,
    rows: Tree,
    size: int,
    order: Int[Array, " p"] | None = None,
) -> Tree:
    """carry = function(carry, candidates [size, ...], ids [size]) for each block, in order.

    What is no candidate has the id -1.
    """
    p = rows["id"].shape[0]

    def one(i: Array, carry: Tree) -> Tree:
        first = jnp.minimum(i * size, p - size)  # the last block overlaps the one before

        def cut(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, size)

        if order is None:
            block = jax.tree.map(cut, rows)
        else:
            at = cut(order)
            block = jax.tree.map(lambda x: x[at], rows)
        real = (block["id"] >= 0) & (first + jnp.arange(size) >= i * size)
        return function(carry, block["x"], jnp.where(real, block["id"], -1))

    return jax.lax.fori_loop(0, -(-p // size), one, _varying(carry))


def _scores(
    score: Score, queries: Tree, candidates: Tree, real: Bool[Array, " c"]
) -> Float[Array, "q c"]:
    """The exact ones; minus infinity instead of NaN, and for what is not real."""
    scores = score(queries, candidates).astype(jnp.float32)
    return jnp.where(real & ~jnp.isnan(scores), scores, -jnp.inf)


def _enter_all(
    score: Score, queries: Tree, best: Best, candidates: Tree, ids: Int[Array, " c"]
) -> Best:
    """The best so far with those of a block, all of whose scores are made."""
    return _enter(best, _scores(score, queries, candidates, ids >= 0), ids)


def _enter_promising(
    queries: Float[Array, "q D"], best: Best, candidates: Float[Array, "c D"], ids: Int[Array, " c"]
) -> Best:
    """As `_enter_all` of dot products, but only what may enter is scored exactly, part by part."""
    size = _part_of(len(ids))
    promising = _may_enter(queries, best, candidates) & (ids >= 0)
    at = jnp.nonzero(promising, size=len(ids), fill_value=len(ids))[0]  # in order of ids
    here = promising.sum()

    def one(state: Tree) -> Tree:
        i, best = state
        some = jax.lax.dynamic_slice_in_dim(at, i * size, size)
        x = candidates.at[some].get(mode="fill", fill_value=0)
        found = ids.at[some].get(mode="fill", fill_value=-1)
        return i + 1, _enter_all(DOT_PRODUCT, queries, best, x, found)

    begin = _varying(jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(lambda state: state[0] * size < here, one, (begin, best))[1]


def _part_of(size: int) -> int:
    groups = size // _GROUP
    parts = next(n for n in range(min(_PARTS, groups), 0, -1) if groups % n == 0)
    return size // parts


def _may_enter(
    queries: Float[Array, "q D"], best: Best, candidates: Float[Array, "c D"]
) -> Bool[Array, " c"]:
    """Which candidates any query may score higher than the last that it holds.

    Rounding both vectors to 8 bits changes a product by at most (2^-8 + 2^-18) |q| |c|, by
    Cauchy and Schwarz; summing in float32, here and in the exact score, by 2^-23 D |q| |c|.
    """
    # A query that holds NaN has no score, and neither has such a candidate.
    none = jnp.isnan(queries).any(1)
    queries = jnp.where(none[:, None], 0, queries)
    last = jnp.where(none, jnp.inf, best[0][:, -1])
    rounded = jnp.einsum(
        "cd,qd->cq",
        candidates.astype(jnp.bfloat16),
        queries.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    )
    # A hundredth more, for the norms' own rounding and that of this sum; and where a product is
    # smaller than float32's smallest normal number, it may count as 0.
    error = 1.01 * (2**-8 + 2**-23 * queries.shape[1])
    reach = error * _norms(candidates)[:, None] * _norms(queries)[None, :]
    room = (rounded - last[None, :]) + (reach + jnp.finfo(jnp.float32).tiny * queries.shape[1])
    # "not <=": where infinity makes it no number, nothing is known. One maximum, as a CPU takes
    # twice as long for comparisons and their disjunction.
    return ~(room.max(1, initial=-jnp.inf) <= 0) & ~jnp.isnan(candidates).any(1)


def _norms(x: Float[Array, "n D"]) -> Float[Array, " n"]:
    return jnp.linalg.norm(x.astype(jnp.float32), axis=1)


def _enter(best: Best, scores: Float[Array, "q c"], ids: Int[Array, " c"]) -> Best:
    """The best so far with those of a block, whose ids increase and are larger than all before.

    The top scores lie in the groups with the top maxima. Round by round each query takes the best
    that is left in its best group, as long as any query's beats the last that it holds. Of equal
    scores the first comes first, here by `argmax`, and enters behind those that are there.
    """
    grouped = scores.reshape(len(scores), len(ids) // _GROUP, _GROUP)
    maxima = grouped.max(2)

    def goes_on(state: Tree) -> Array:
        (top, _), maxima, _ = state
        return jnp.any(maxima.max(1) > top[:, -1])

    def take(state: Tree) -> Tree:
        best, maxima, (last, last_at) = state
        group = maxima.argmax(1)[:, None]  # [q, 1]
        own = jnp.take_along_axis(grouped, group[:, :, None], 1)[:, 0]  # [q, _GROUP]
        at = group * _GROUP + jnp.arange(_GROUP)
        # Taken so far is what stands before or at the last one: no mask of [q, c] is kept.
        own = jnp.where((own < last) | ((own == last) & (at > last_at)), own, -jnp.inf)
        place = own.argmax(1)[:, None]
        score = jnp.take_along_axis(own, place, 1)
        taken = jnp.take_along_axis(at, place, 1)
        rest = jnp.where(jnp.arange(_GROUP) == place, -jnp.inf, own).max(1, keepdims=True)
        maxima = jnp.where(jnp.arange(maxima.shape[1]) == group, rest, maxima)
        return _insert(best, score, ids[taken]), maxima, (score, taken)

    nothing = _varying((jnp.full((len(scores), 1), jnp.inf), jnp.full((len(scores), 1), -1)))
    return jax.lax.while_loop(goes_on, take, (best, maxima, nothing))[0]


def _insert(best: Best, score: Float[Array, "q 1"], id_: Int[Array, "q 1"]) -> Best:
    """Behind equal scores; a score that does not beat the last is dropped."""
    scores, ids = best
    stays = scores >= score  # a prefix
    here = jnp.arange(scores.shape[1]) == stays.sum(1, keepdims=True)

    def insert(old: Array, new: Array) -> Array:
        return jnp.where(stays, old, jnp.where(here, new, jnp.roll(old, 1, axis=1)))

    return insert(scores, score), insert(ids, id_)


def _own_score(
    score: Score, queries: Tree, rows: Tree, gold: Int[Array, " q"], size: int
) -> Float[Array, " q"]:
    """Each query's score with its own candidate, the very number that its block will hold.

    Hence from a product of the same shape, though only its diagonal is read.
    """
    axes = _axes()
    at = jnp.clip(gold - rows["id"][0], 0, len(rows["id"]) - 1)  # ids are positions, one by one
    own = jax.tree.map(lambda x: _longer(x[at], size - len(gold)), rows["x"])  # [size, ...]
    mine = rows["id"][at] == gold
    scores = _scores(score, queries, own, jnp.ones(size, bool))
    # A barrier, lest the compiler makes the diagonal alone, in another order of summing.
    scores = jnp.diagonal(jax.lax.optimization_barrier(scores))
    return jax.lax.psum(jnp.where(mine, scores, 0), axes) if axes else scores


def _count(
    score: Score,
    queries: Tree,
    own: Float[Array, " q"],
    gold: Int[Array, " q"],
    counts: RankCounts,
    candidates: Tree,
    ids: Int[Array, " c"],
) -> RankCounts:
    """The counts with those of a block, whose ids are positions."""
    scores = _scores(score, queries, candidates, ids >= 0)
    # The own one is level with itself, however its score was rounded here.
    itself = ids == gold[:, None]
    greater = (scores > own[:, None]) & ~itself
    equal = ((scores == own[:, None]) | itself) & (ids >= 0)
    after = equal & (ids > gold[:, None])
    new = RankCounts(*(x.sum(1, dtype=jnp.int32) for x in (greater, equal, after)))
    return jax.tree.map(jnp.add, counts, new)


def _varying(tree: Tree) -> Tree:
    """Declares that the values differ between devices, as the carry of a loop must."""
    axes = _axes()
    return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), tree) if axes else tree
