"""Slices of TPUs that are not there: named, laid out, compiled for, and refused."""

from __future__ import annotations

import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import compiled
from benchmarks.configs import CASES, Case
from mmjax.check import measure, sweep, topology
from mmjax.check.subject import open_subject
from mmjax.check.topology import known_slices, slice_devices
from mmjax.errors import UserError
from mmjax.observe.chips import CHIPS, of_device
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh

SMALLEST = "retrieval-demo"

# Another of each family at its smallest: a network's layers compile like those of a large one.
# SCAN's is in test_compiled_scan.
FAMILIES = {
    "bert": Case("configs/intent.py:demo", "v5e:2x2", {"model.unroll": 1, "task.max_length": 32}),
    "t5": Case("configs/intent.py:model=t5,size=small", "v5e:2x2", {"task.max_length": 32}),
    "gpt": Case("configs/rewrite.py:size=tiny", "v5e:2x2", {"task.max_length": 80}),
    "transresnet": Case("configs/respond.py:demo,model=transresnet", "v5e:2x2"),
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (requirements-test.txt) is missing"
)


def test_a_slice_has_its_devices_and_their_published_memory():
    for name, devices, gib in (("v3:4x4", 32, 16), ("v5e:4x4", 16, 16), ("v4:2x2x2", 8, 32)):
        found = slice_devices(name)
        assert len(found) == devices
        assert of_device(found[0].device_kind).memory == gib * 2**30


def test_whether_something_fits_is_known_of_every_generation_that_is_offered():
    for generation, shapes in topology.SHAPES.items():
        found = slice_devices(f"{generation}:{shapes[1]}")
        chip = CHIPS[found[0].device_kind]
        assert len(found) == chip.devices * np.prod([int(n) for n in shapes[1].split("x")])


def test_an_unknown_slice_is_answered_with_those_that_there_are():
    with pytest.raises(UserError, match=r"no such slice \(.*v9.*v3:4x4.*v5e:16x16.*v5p:4x4x4"):
        slice_devices("v9:4x4")
    with pytest.raises(UserError, match="v5e:2x2, v5e:2x4, v5e:4x4") as error:
        slice_devices("v5e:3x3")
    assert "v3" not in str(error.value)
    with pytest.raises(UserError, match=r"no such slice \(it must be written as v5e:4x4 is\)"):
        slice_devices("v5e:0x4")
    assert sweep.candidates("v5e:4x4")[-1] == "v5e:4x4" and "v5e:2x2" in known_slices(["v5e"])


def test_neighbours_on_an_axis_are_first_those_of_one_slice():
    devices = slice_devices("v5e:2x2", 2)
    mesh = make_mesh(MeshOptions(data=-1, fsdp=2), devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)[..., 0]  # [data, fsdp]
    assert (slices[:2] == slices[0, 0]).all() and (slices[2:] != slices[0, 0]).all()
    across = make_mesh(MeshOptions(data=1, fsdp=-1, dcn_data=1, dcn_fsdp=-1), devices)
    assert dict(across.shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    with pytest.raises(UserError, match="does not match 2 slices"):
        make_mesh(MeshOptions(dcn_data=3), devices)


@pytest.mark.parametrize("name", ["v3:4x4", "v4:2x2x4", "v5e:4x8", "v5p:4x4x4"])
def test_an_axis_may_be_any_part_of_a_torus(name):
    devices = slice_devices(name)
    sizes = [2**k for k in range(len(devices).bit_length())]
    for fsdp, tensor in itertools.product(sizes, sizes):
        if fsdp * tensor <= len(devices):
            mesh = make_mesh(MeshOptions(data=-1, fsdp=fsdp, tensor=tensor), devices)
            assert (mesh.shape["fsdp"], mesh.shape["tensor"]) == (fsdp, tensor)
            assert set(mesh.devices.flat) == set(devices)


def test_what_the_compiler_has_no_room_for_is_refused_and_told_with_its_size():
    (device,) = slice_devices("v5e:1x1")
    mesh = make_mesh(MeshOptions(), [device])
    large = jax.ShapeDtypeStruct(
        (1 << 17, 1 << 15), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())
    )
    held = measure.bytes_on_device(large)
    memory = measure.Memory(held, 0, 0, 0, 0, 0, 0, 0, 0)
    with jax.set_mesh(mesh):
        found = measure._compiled(jax.jit(lambda x: x.sum(0) + x.max(0)), (large,), memory, [0])
    assert found.refused and found.costs is None
    assert found.memory.total >= held == 16 << 30


def test_the_smallest_config_costs_what_the_golden_file_says():
    check(SMALLEST)


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
def test_what_each_family_computes_compiles_and_fits(case):
    subject, devices = open_subject(case.values()), slice_devices(case.slice)
    found = measure.measure(subject, devices, slice=case.slice)
    assert found.fits and found.train.costs.flops > 0 and found.evaluation


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in compiled.ALL if name != SMALLEST])
def test_a_config_costs_on_its_slice_what_the_golden_file_says(name):
    check(name)


def check(name: str) -> None:
    golden = compiled.read()[name]
    found = compiled.measured(compiled.ALL[name])
    broken = compiled.broken(name, golden, found)
    assert not broken, "\n".join([*broken, f"python -m benchmarks.compiled --only={name} --write"])
    assert found["fits"] == golden["fits"]
    assert name not in CASES or golden["fits"], f"{name} does not fit the slice that it names"
