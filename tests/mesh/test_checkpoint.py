"""A checkpoint does not remember the mesh that it was saved from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.checkpoint.store import CheckpointStore
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh

SPECS = {
    "kernel": PartitionSpec("fsdp", "tensor"),
    "moment": PartitionSpec(("data", "fsdp")),
    "step": PartitionSpec(),
}
MESHES = {
    "eight": (MeshOptions(data=1, fsdp=4, tensor=2), 8),
    "data": (MeshOptions(data=8), 8),
    "two": (MeshOptions(data=1, fsdp=2, tensor=1), 2),
    "one": (MeshOptions(), 1),
}


def placed(name: str) -> dict[str, NamedSharding]:
    options, devices = MESHES[name]
    mesh = make_mesh(options, jax.devices()[:devices])
    return {key: NamedSharding(mesh, spec) for key, spec in SPECS.items()}


@pytest.mark.parametrize("there", MESHES)
@pytest.mark.parametrize("here", MESHES)
def test_restored_on_another_mesh_bit_for_bit(tmp_path, there, here):
    rng = np.random.default_rng(0)
    values = {
        "kernel": rng.normal(size=(16, 8)).astype(jnp.bfloat16),
        "moment": rng.normal(size=(24,)).astype(np.float32),
        "step": np.int32(7),
    }
    store = CheckpointStore(tmp_path)
    store.save(7, jax.device_put(values, placed(there)), {"best_step": 4}, keep=1)
    store.wait()
    target = {
        name: jax.ShapeDtypeStruct(values[name].shape, values[name].dtype, sharding=sharding)
        for name, sharding in placed(here).items()
    }
    tree, host = store.restore(7, target)
    assert host == {"best_step": 4}
    for name, array in tree.items():
        assert array.sharding == target[name].sharding
        assert np.asarray(array).tobytes() == values[name].tobytes()
