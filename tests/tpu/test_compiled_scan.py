"""SCAN's training step at the paper's batch on the slice of the PhotoChat paper, without one."""

from __future__ import annotations

import importlib.util
import math
import os

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
B, R, F, W, D = 128, 36, 2048, 64, 1024

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (requirements-test.txt) is missing"
)


def test_a_step_of_scan_holds_no_attention_of_all_pairs_on_any_of_32_cores():
    """What every word sees of every photo would be 4 GiB for the batch, 128 MiB on each core; all
    that a step holds beside its state, gathered weights and gradients among it, is less.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask about itself
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v3:4x4").devices
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((8, 4, 1), axes, axis_types=(AxisType.Auto,) * 3, devices=devices)

    def array(dtype, *shape):
        spec = partition_spec(("batch", *[None] * (len(shape) - 1)))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

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
    # 4 rows of a core against 4 of another are one tile: no array of more pairs, of width W x D.
    assert f"[{B},{B}," not in compiled.as_text()
