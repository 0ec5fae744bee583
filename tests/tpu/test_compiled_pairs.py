"""What the pair loss costs on a real slice: compiled for TPUs, on a machine without one.

Bytes of a compiled program and operations of its trace are exact, and so they are asserted.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
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
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it takes no chip from others
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


@functools.cache
def compiled(name: str, B: int, loss: Any) -> Any:
    mesh = slice_of(name)
    with jax.set_mesh(mesh):
        return traced(mesh, B, loss).lower().compile()


def permuted_bytes(text: str) -> int:
    """What a device sends by collective-permutes; those of a loop's body once per trip.

    A permute counts where it starts. The number of trips is the constant that the condition of the
    loop compares with, the only one it holds.
    """
    computations = {
        found[1]: found[2]
        for found in re.finditer(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)
    }

    def sent(name: str) -> int:
        body = computations[name]
        total = 0
        for result in re.findall(r"= (.*?) collective-permute(?:-start)?\(", body):
            array = re.search(r"(pred|[a-z]+\d+)\[([\d,]*)\]", result)  # what is sent is the first
            bits = 8 if array[1] == "pred" else int(re.search(r"\d+", array[1])[0])
            total += bits // 8 * math.prod(int(n) for n in array[2].split(",") if n)
        for condition, inner in re.findall(r" while\(.*?condition=%(\S+), body=%(\S+?)[,\s]", body):
            (trips,) = re.findall(r"s32\[\]\S* constant\((\d+)\)", computations[condition])
            total += int(trips) * sent(inner)
        return total

    (entry,) = re.findall(r"^ENTRY %(\S+)", text, re.M)
    return sent(entry)


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
    memory = compiled(name, B, loss).memory_analysis()
    assert memory.temp_size_in_bytes < 4 * MIB
    assert memory.peak_memory_in_bytes < 48 * MIB


def test_the_scores_are_made_twice_and_nothing_else_is_added():
    """Once forward, once more backward, and two products of the gradient: 4/3 of the dense loss."""
    B, mesh = 32_768, slice_of("v5e:4x4")
    with jax.set_mesh(mesh):
        found = products(traced(mesh, B, SoftmaxCE()).jaxpr.jaxpr)
    dense = 3 * 2 * B * B * D / mesh.size
    assert found == pytest.approx(dense * 4 / 3, rel=1e-3)


def test_a_device_sends_the_columns_twice_and_their_gradients_once():
    """The formula of `mmjax.parallel.ring`; what goes with a column is counted number by number."""
    B, s, K = 32_768, 2, 1
    found = permuted_bytes(compiled("v5e:4x4", B, SoftmaxCE()).as_text())
    number, key, real = 4, 4 * K, 1  # all losses need: which example, its ids, whether it is one
    forward = s * D + number + key + real + 2 * 4  # largest score and sum of exponents so far
    backward = (s + 4) * D + number + key + real + 3 * 4  # those two, and the loss's slope
    assert found == B * (forward + backward)
    assert found == pytest.approx(B * D * (2 * s + 4), rel=0.01)
