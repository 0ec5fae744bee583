"""What the pair loss costs on a real slice: compiled for TPUs, on a machine without one.

Bytes of a compiled program and operations of its trace are exact, and so they are asserted.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.losses.pairwise import HardestHinge, SoftmaxCE, pair_term

D = 512
MIB = 2**20

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (requirements-test.txt) is missing"
)


def slice_of(name: str) -> jax.sharding.Mesh:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask about itself
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    shape = (len(devices) // 4, 4, 1)
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3, devices=devices)


def traced(mesh: jax.sharding.Mesh, B: int, loss: Any) -> Any:
    """Value and gradients of the mean loss, traced with inputs cut along the batch."""

    def step(rows, columns, scale, keys, weights):
        def mean(rows, columns, scale):
            sums = pair_term(rows, columns, loss=loss, scale=scale, keys=keys, weights=weights)
            return sums.total / sums.weight

        return jax.value_and_grad(mean, argnums=(0, 1, 2))(rows, columns, scale)

    by_batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def array(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    out = (everywhere, (by_batch, by_batch, everywhere))
    return jax.jit(step, out_shardings=out).trace(
        *[array((B, D), jnp.bfloat16, by_batch)] * 2,
        array((), jnp.float32, everywhere),
        array((B, 1), jnp.int32, by_batch),
        array((B,), jnp.float32, by_batch),
    )


def products(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products; a loop's body counts once per trip."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = math.prod(shape[axis] for axis in left)
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        trips = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += trips * products(inner)
    return total


@pytest.mark.parametrize(("name", "B"), [("v5e:4x4", 32_768), ("v5e:16x16", 131_072)])
@pytest.mark.parametrize("loss", [SoftmaxCE(), HardestHinge()], ids=lambda x: type(x).__name__)
def test_a_large_batch_needs_hardly_more_than_its_embeddings(name, B, loss):
    """The dense matrix of scores alone would be 256 MiB on each of 16 chips, in float32."""
    mesh = slice_of(name)
    with jax.set_mesh(mesh):
        memory = traced(mesh, B, loss).lower().compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * MIB
    assert memory.peak_memory_in_bytes < 48 * MIB


def test_the_scores_are_made_twice_and_nothing_else_is_added():
    """Once forward, once more backward, and two products of the gradient: 4/3 of the dense loss."""
    B, mesh = 32_768, slice_of("v5e:4x4")
    with jax.set_mesh(mesh):
        found = products(traced(mesh, B, SoftmaxCE()).jaxpr.jaxpr)
    dense = 3 * 2 * B * B * D / mesh.size
    assert found == pytest.approx(dense * 4 / 3, rel=1e-3)
