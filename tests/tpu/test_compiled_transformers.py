"""The largest transformer fits the slices it is meant for: compiled for TPUs, without one."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding

from mmjax.losses.objective import LocalTerm, Objective
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from mmjax.models.presets import ENCODER_DECODER_PRESETS
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.parallel.rules import partition_spec
from mmjax.steps import make_train_step
from mmjax.train_state import abstract_params, abstract_state

GIB = 2**30
B, SOURCE, TARGET = 64, 512, 16

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu (requirements-test.txt) is missing",
    ),
    pytest.mark.slow,
]


class Answers(nn.Module):
    """The encoder-decoder over a batch as a task gives it."""

    config: EncoderDecoderConfig

    @nn.compact
    def __call__(self, batch: Any, *, train: bool) -> dict[str, jax.Array]:
        sides = (batch["source"]["ids"], batch["source"]["mask"])
        sides += (batch["target"]["ids"], batch["target"]["mask"])
        return {"logits": EncoderDecoder(self.config)(*sides, train=train)}


def cross_entropy(outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    target = batch["target"]
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], target["ids"])
    return jnp.sum(losses * target["mask"]), jnp.sum(target["mask"]).astype(jnp.float32)


def large(config: Any) -> Any:
    return dataclasses.replace(config, dtype="bfloat16", remat="full")


@pytest.mark.parametrize("topology", ["v3:4x4", "v5e:4x8"])
def test_a_train_step_of_t5_3b_fits_a_slice_of_32(topology, capsys):
    """Parameters, AdamW's moments and gradients in float32: 16 GiB is what a core of v3 has."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask about itself
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    assert len(devices) == 32
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((1, 16, 2), axes, axis_types=(AxisType.Auto,) * 3, devices=devices)

    config = ENCODER_DECODER_PRESETS["t5-3b"]
    config = dataclasses.replace(
        config, encoder=large(config.encoder), decoder=large(config.decoder)
    )
    rows = NamedSharding(mesh, partition_spec(("batch", "length")))
    batch = {
        side: {
            "ids": jax.ShapeDtypeStruct((B, length), jnp.int32, sharding=rows),
            "mask": jax.ShapeDtypeStruct((B, length), bool, sharding=rows),
        }
        for side, length in (("source", SOURCE), ("target", TARGET))
    }
    module = Answers(config)
    tx = build_optimizer(OptimOptions(), 1000, abstract_params(module, batch))
    state, _ = abstract_state(module, batch, tx, mesh, ema=False)
    held = sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(state)
    )
    with jax.set_mesh(mesh):
        step = make_train_step(module, Objective([LocalTerm("answer", cross_entropy)]), tx, state)
        memory = step.lower(state, batch).compile().memory_analysis()
    with capsys.disabled():
        print(
            f"\n{topology}: state {held / GIB:.2f} GiB per chip, "
            f"peak {memory.peak_memory_in_bytes / GIB:.2f} GiB"
        )
    # Three copies of 2.85 billion float32, all but the smallest vectors cut into 32.
    assert held < 1.01 * 3 * 4 * 2_851_598_336 / 32
    assert memory.peak_memory_in_bytes < 15 * GIB
