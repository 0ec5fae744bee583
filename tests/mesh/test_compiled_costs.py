"""What compiled programs hold and send on eight devices, counted by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import weak_scaling
from benchmarks.configs import SIZES
from mmjax.check.costs import Traffic, count
from mmjax.check.measure import measure
from mmjax.check.subject import open_subject
from mmjax.errors import UserError
from mmjax.parallel.mesh import MeshOptions, make_mesh
from mmjax.parallel.rules import LOGICAL_RULES

TRIPS = 5


def test_collectives_of_a_loop_count_with_their_bytes_once_per_trip():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def looped(x):  # [16, 32] on each device
        def trip(total, _):
            gathered = jax.lax.all_gather(total, "fsdp", axis=0, tiled=True)  # [64, 32]
            summed = jax.lax.psum(jnp.sin(gathered), ("data", "fsdp"))
            passed = jax.lax.ppermute(summed[:16], "fsdp", [(i, (i + 1) % 4) for i in range(4)])
            return total + passed, None

        return jax.lax.scan(trip, x, None, length=TRIPS)[0]

    mapped = jax.shard_map(
        looped, mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=P(("data", "fsdp")),
        check_vma=False,
    )  # fmt: skip
    x = jax.ShapeDtypeStruct(
        (128, 32), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp")))
    )
    found = count(jax.jit(mapped).lower(x).compile().as_text(), [0] * 8).collectives
    gathered = 64 * 32 * 4
    assert found == {
        "all-gather": Traffic(TRIPS, TRIPS * gathered * 3 / 4),
        "all-reduce": Traffic(TRIPS, TRIPS * 2 * gathered * 7 / 8),
        "collective-permute": Traffic(TRIPS, TRIPS * 16 * 32 * 4),
    }


@pytest.mark.parametrize(
    "devices",
    [(1, 8), pytest.param(weak_scaling.DEVICES, marks=pytest.mark.slow)],
    ids=["ends", "all"],
)
def test_twice_the_devices_with_twice_the_examples_compute_the_same_each(devices):
    rows = weak_scaling.scaling(devices)
    assert [row["devices"] for row in rows] == list(devices)
    flops = np.array([row["flops"] for row in rows])
    np.testing.assert_allclose(flops, flops[0], rtol=0.05)
    sent = [row["bytes_sent"] for row in rows]
    # An all-reduce of the gradients sends 2 (n - 1) / n of their bytes: less than twice as much
    # on any number of devices as on two.
    assert sent[0] == 0 and sent == sorted(sent)
    assert sent[-1] < 2.2 * sent[1] and sent[1] > 0


def test_parameters_and_optimiser_of_a_device_are_its_share_by_hand():
    case = SIZES["intent-tiny"].values()
    case["mesh"] = {"data": 2, "fsdp": 4, "tensor": 1}
    case["train"]["global_batch_size"] = case["eval"]["batch_size"] = 16
    subject = open_subject(case)
    found = measure(subject, jax.devices()[:8], evaluation=False)
    batch = subject.batch(make_mesh(MeshOptions(), jax.devices()[:1]), 16)
    module, first = subject.task.module(), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), batch)
    boxes = jax.eval_shape(lambda: module.init(jax.random.key(0), first, train=False))["params"]
    cut = {axis for axis, rule in LOGICAL_RULES.items() if rule == "fsdp"}

    def share(box) -> int:
        named = zip(box.value.shape, box.names, strict=True)
        sizes = [n // 4 if name in cut else n for n, name in named]
        return math.prod(sizes) * box.value.dtype.itemsize

    boxes = jax.tree.leaves(boxes, is_leaf=lambda x: hasattr(x, "names"))
    by_hand = sum(share(box) for box in boxes)
    memory = found.train.memory
    assert memory.parameters == by_hand
    assert memory.optimiser == 2 * by_hand + 2 * 4  # two moments, two counts of updates
    assert memory.batch == sum(x.nbytes for x in jax.tree.leaves(first)) // 8
    # Beside them the step's number and the key; what the step does not read is not handed over.
    state = memory.parameters + memory.optimiser + 4 + 8
    assert state <= memory.arguments <= state + memory.batch


def test_a_batch_or_heads_that_do_not_divide_are_one_sentence():
    case = weak_scaling.SMALL.values()
    with pytest.raises(UserError, match="a batch of 20 does not divide among 8 devices"):
        measure(open_subject(case).with_batch(20), jax.devices()[:8])
    train = {**case["train"], "global_batch_size": 12}
    with pytest.raises(UserError, match="a batch of 12 does not divide among 8 devices"):
        measure(open_subject({**case, "train": train}), jax.devices()[:8])
    case["mesh"] = {"data": 1, "fsdp": 2, "tensor": 4}
    with pytest.raises(UserError, match=r"an axis of 2 does not divide by 4 \('heads' is cut by"):
        measure(open_subject(case), jax.devices()[:8])
