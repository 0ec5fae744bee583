"""A pool over eight devices gives the ids of one device, and no device sees more than its part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.parallel.topk import rank_counts, top_k

# P: divides by the devices, does not; fewer than a block on a device; fewer than the devices.
CASES = [
    (1024, 9, (4, 2, 1)),
    (1003, 9, (4, 2, 1)),
    (1003, 9, (2, 2, 2)),
    (200, 200, (4, 2, 1)),
    (5, 9, (8, 1, 1)),
]
BLOCK = (4, 64)


def mesh_of(shape):
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3)


def by_batch(mesh, pool):
    """The pool as it would lie: cut where it can be, else on every device."""
    cut = mesh.shape["data"] * mesh.shape["fsdp"]
    spec = PartitionSpec(("data", "fsdp")) if len(pool) % cut == 0 else PartitionSpec()
    return jax.device_put(pool, NamedSharding(mesh, spec))


def drawn(P):
    """Random vectors, many of them twice: ties, and scores that differ in the last bits alone."""
    rng = np.random.default_rng(P)
    queries = rng.standard_normal((7, 40), dtype=np.float32)
    distinct = rng.standard_normal((P // 2 + 1, 40), dtype=np.float32)
    pool = distinct[rng.integers(0, len(distinct), P)]
    return queries, pool, rng.permutation(2 * P)[:P], rng.integers(0, P, 7)


@pytest.mark.parametrize(("P", "k", "shape"), CASES)
def test_ids_scores_and_counts_are_those_of_one_device_to_the_last_bit(P, k, shape):
    queries, pool, ids, gold = drawn(P)
    wanted = [
        top_k(queries, pool, k, block=BLOCK),
        top_k(queries, pool, k, ids=ids, block=BLOCK),
        rank_counts(queries, pool, gold, block=BLOCK),
    ]
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        pool = by_batch(mesh, pool)
        found = [
            top_k(queries, pool, k, block=BLOCK),
            top_k(queries, pool, k, ids=ids, block=BLOCK),
            rank_counts(queries, pool, gold, block=BLOCK),
        ]
    for arrays, others in zip(found, wanted, strict=True):
        for array, other in zip(arrays, others, strict=True):
            assert array.sharding.is_fully_replicated
            np.testing.assert_array_equal(array, other)


def test_the_ids_of_a_pool_that_was_filled_up_are_those_of_its_real_rows():
    queries, pool, ids, _ = drawn(1003)
    wanted = top_k(queries, pool, 9, ids=ids, block=BLOCK)
    filled = np.concatenate([pool, np.full((5, 40), 100, np.float32)])
    mesh = mesh_of((8, 1, 1))
    with jax.set_mesh(mesh):
        named = np.concatenate([ids, np.full(5, -1)])
        found = top_k(queries, by_batch(mesh, filled), 9, ids=named, block=BLOCK)
    np.testing.assert_array_equal(found[1], wanted[1])


def test_a_device_holds_its_part_and_sends_what_it_found():
    """1,000 queries, k = 10: 8 x 78 KiB are sent, and no device gathers the pool."""
    Q, P, D = 1000, 80_000, 64
    mesh = mesh_of((4, 2, 1))
    cut = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    everywhere = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        queries = jax.ShapeDtypeStruct((Q, D), jnp.float32, sharding=everywhere)
        gold = jax.ShapeDtypeStruct((Q,), jnp.int32, sharding=everywhere)
        pool = jax.ShapeDtypeStruct((P, D), jnp.float32, sharding=cut)
        for lowered in (
            top_k.lower(queries, pool, 10, block=(1024, 512)),
            rank_counts.lower(queries, pool, gold, block=(1024, 1024)),
        ):
            compiled = lowered.compile()
            text = compiled.as_text()
            for columns in (P, P // 8):
                assert f"[{Q},{columns}]" not in text and f"[{columns},{Q}]" not in text
            assert f"[{P},{D}]" not in text
            assert compiled.memory_analysis().temp_size_in_bytes < 4 * P * D
