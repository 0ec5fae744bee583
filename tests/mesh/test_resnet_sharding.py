"""The ResNet on eight devices: cut as the rules say, and the same numbers as on one."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding

from mmjax.models.resnet import ResNet, ResNetConfig
from mmjax.options import MeshOptions
from mmjax.parallel import rules
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.rules import partition_spec
from mmjax.pretrained import export_image_tower, load_folder, load_image_tower
from mmjax.pretrained.folder import Tensors

# Two rows per device: a group of statistics spans two devices.
CONFIG = ResNetConfig((2,), (16,), "basic", stem_width=8, batch_norm_group=4)
MESHES = {"data=8": MeshOptions(8, 1, 1), "data=4,fsdp=2": MeshOptions(4, 2, 1)}


def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 32, 32, 3)).astype(np.float32)
    present = np.ones(16, bool)
    present[[0, 5, 6, 15]] = False
    return images, present


def abstract():
    return jax.eval_shape(ResNet(CONFIG).init, jax.random.key(0), batch()[0])


def init(key):
    return nn.unbox(ResNet(CONFIG).init(key, batch()[0]))


def step(config, variables, images, present):
    weight = np.random.default_rng(1).normal(size=(16, config.width)).astype(np.float32)

    def loss(params):
        out, changed = ResNet(config).apply(
            {**variables, "params": params}, images, True, present, mutable=["batch_stats"]
        )
        return jnp.sum(out * weight), (out, changed)

    grads, (out, changed) = jax.grad(loss, has_aux=True)(variables["params"])
    return out, changed, grads


@functools.cache
def run(mode, options, devices=8):
    config = dataclasses.replace(CONFIG, batch_norm=mode)
    mesh = make_mesh(options, jax.devices()[:devices])
    placed = rules.shardings(abstract(), mesh)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, partition_spec(("batch",)))
        images, present = jax.device_put(batch(), rows)
        variables = jax.jit(init, out_shardings=placed)(jax.random.key(0))
        out = (None, {"batch_stats": placed["batch_stats"]}, placed["params"])
        compiled = jax.jit(lambda v, x, p: step(config, v, x, p), out_shardings=out)
        return jax.device_get((variables, compiled(variables, images, present)))


@pytest.mark.parametrize(
    ("mesh", "mode"), [("data=8", "global"), ("data=4,fsdp=2", "global"), ("data=8", "groups")]
)
def test_training_equals_one_device(mesh, mode):
    sharded = run(mode, MESHES[mesh])
    single = run(mode, MeshOptions(1, 1, 1), devices=1)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(sharded), jax.tree.leaves(single), strict=True
    ):
        scale = max(1.0, np.abs(b).max())
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-5, err_msg=name)


def test_a_pretrained_folder_loads_onto_the_mesh_by_slices(tmp_path, monkeypatch):
    variables = jax.jit(init)(jax.random.key(0))
    export_image_tower(CONFIG, variables, tmp_path)
    mesh = make_mesh(MESHES["data=4,fsdp=2"], jax.devices())
    target = jax.tree.map(
        lambda s, sharding: s.update(sharding=sharding),
        rules.unbox(abstract()),
        rules.shardings(abstract(), mesh),
    )
    largest = {}
    read = Tensors.read

    def watched(self, name, index):
        part = read(self, name, index)
        largest[name] = max(largest.get(name, 0), part.size)
        return part

    monkeypatch.setattr(Tensors, "read", watched)
    loaded, _ = load_image_tower(load_folder(tmp_path), CONFIG, target)
    for leaf, wanted in zip(jax.tree.leaves(loaded), jax.tree.leaves(target), strict=True):
        assert leaf.sharding == wanted.sharding
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert largest["encoder.stages.0.layers.1.layer.1.convolution.weight"] == 16 * 16 * 9 / 2
