"""SCAN's training step at the paper's batch on the slice of the PhotoChat paper, without one."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding

from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge
from mmjax.models.gru import GruConfig
from mmjax.models.scan import Scan, ScanConfig
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.parallel.rules import partition_spec
from mmjax.steps import make_train_step
from mmjax.tasks.retrieval_scan import ScanModel
from mmjax.train_state import abstract_params, abstract_state

MIB = 2**20
# Regions and words are primes near the paper's 36 and 64: no other axis has them as factors.
B, R, F, W, D = 128, 37, 2048, 61, 1024
CORES = 32

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (requirements-test.txt) is missing"
)


def pairs_held(text: str) -> int:
    """Of the largest array of a compiled program with a number for every word and region of pairs
    of a text and a photo, however its axes are ordered or merged: how many pairs."""
    shapes = re.findall(r"\b(?:pred|[a-z]+\d+)\[([\d,]+)\]", text)
    sizes = {math.prod(map(int, shape.split(","))) for shape in shapes}
    return max((size // (R * W) for size in sizes if size % (R * W) == 0), default=0)


@pytest.mark.parametrize(
    ("shape", "pairs"),
    [
        (f"f32[4,{R},4,{W}]", 16),
        (f"bf16[4,{W},128,{R}]", 512),
        (f"pred[128,{R},4,{W}]", 512),
        (f"f32[512,{R * W}]", 512),
        (f"f32[{W * 128},{R * 4}]", 512),
        (f"f32[{B},{B},{R},{W}]", B * B),
        (f"f32[4,{R},{D}]", 0),
        (f"f32[4,{W},{D}]", 0),
        ("s32[]", 0),
    ],
)
def test_the_attention_is_found_in_any_order_of_its_axes(shape, pairs):
    assert pairs_held(f"%fusion = {shape}{{1,0:T(8,128)}} fusion(...)") == pairs


def sliced() -> tuple[jax.sharding.Mesh, Any]:
    """32 cores, and what makes the shape of an array that is cut over them along the batch."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask about itself
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v3:4x4").devices
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((8, 4, 1), axes, axis_types=(AxisType.Auto,) * 3, devices=devices)

    def array(dtype, *shape):
        spec = partition_spec(("batch", *[None] * (len(shape) - 1)))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    return mesh, array


def test_a_step_of_scan_holds_no_attention_of_all_pairs_on_any_of_32_cores():
    """A core has 4 texts, and 4 photos that go around: 16 pairs at a time, and not its 512."""
    mesh, array = sliced()
    batch = {
        "query": {"ids": array(jnp.int32, B, W), "mask": array(bool, B, W)},
        "regions": array(jnp.float32, B, R, F),
        "region_mask": array(bool, B, R),
        "keys": array(jnp.int32, B, 1),
        "weight": array(jnp.float32, B),
    }
    module = Scan(ScanConfig(GruConfig(10_000, 300, D, both_ways=True), joint_dim=D))
    term = PairTerm(
        *("retrieval", "query", "photo", "scale", HardestHinge(0.2)),
        reduction="sum",
        score=StackedCrossAttention(),
        tile=ScanModel.tile,
    )
    options = OptimOptions(name="adam", schedule="constant", clip_norm=2.0)
    # Outside of the mesh, on which nothing can be computed.
    tx = build_optimizer(options, 1000, abstract_params(module, batch))
    state, _ = abstract_state(module, batch, tx, mesh, ema=False)
    with jax.set_mesh(mesh):
        step = make_train_step(module, Objective([term]), tx, state)
        compiled = step.lower(state, batch).compile()
    held = sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(state)
    )
    memory = compiled.memory_analysis()
    print(f"state {held / MIB:.0f}, temporaries {memory.temp_size_in_bytes / MIB:.0f} MiB")
    assert memory.temp_size_in_bytes < 128 * MIB
    assert memory.peak_memory_in_bytes < held + 128 * MIB
    assert pairs_held(compiled.as_text()) == (B // CORES) ** 2


def test_scores_of_a_whole_batch_at_once_would_be_found():
    mesh, array = sliced()

    def total(words, regions, said, there):
        score = StackedCrossAttention()
        return score({"words": words, "mask": said}, {"regions": regions, "mask": there}).sum()

    with jax.set_mesh(mesh):
        arrays = (array(jnp.float32, B, n, 128) for n in (W, R))
        masks = (array(bool, B, n) for n in (W, R))
        compiled = jax.jit(total).lower(*arrays, *masks).compile()
    assert pairs_held(compiled.as_text()) >= B * B // CORES
