"""The transformer on eight devices: sharded as the rules say, and the same numbers as on one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from safetensors.numpy import save_file

from mmjax.models.encoder_decoder import EncoderDecoder
from mmjax.models.presets import ENCODER_DECODER_PRESETS, bert, t5
from mmjax.models.transformer import Transformer
from mmjax.parallel import rules
from mmjax.parallel.rules import partition_spec
from mmjax.pretrained import PretrainedFolder, load_transformer
from mmjax.pretrained.bert import BERT
from mmjax.pretrained.folder import Tensors

CONFIG = bert(
    layers=2, width=32, heads=4, feed_forward=48, vocab_size=50, max_positions=16, dropout=0.2
)
MODEL = Transformer(CONFIG)


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        yield mesh


def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (8, 12)).astype(np.int32)
    return ids, np.arange(12) < np.array([12, 9, 5, 1, 12, 7, 3, 2])[:, None]


def shardings(mesh):
    boxed = jax.eval_shape(MODEL.init, jax.random.key(0), *batch())["params"]
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, partition_spec(leaf.names)),
        boxed,
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
    )


def init(key):
    params = MODEL.init(key, *batch())["params"]
    return jax.tree.map(lambda p: 4 * p, nn.unbox(params))


def gradient(params, ids, mask):
    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        out = MODEL.apply({"params": params}, ids, mask, train=True, rngs=rngs)
        return jnp.mean(jnp.where(mask[..., None], jnp.sin(out), 0))

    return jax.value_and_grad(loss)(params)


def test_initial_parameters_outputs_and_gradients_equal_one_device(mesh):
    ids, mask = batch()
    rows = NamedSharding(mesh, partition_spec(("batch", "length")))
    sharded_ids, sharded_mask = jax.device_put(ids, rows), jax.device_put(mask, rows)
    params = jax.jit(init, out_shardings=shardings(mesh))(jax.random.key(0))
    output = jax.jit(MODEL.apply)({"params": params}, sharded_ids, sharded_mask)
    result = jax.jit(gradient)(params, sharded_ids, sharded_mask)
    sharded = jax.device_get((params, output, result))

    one = jax.make_mesh(
        (1, 1, 1), mesh.axis_names, axis_types=mesh.axis_types, devices=jax.devices()[:1]
    )
    with jax.set_mesh(one):
        params = jax.jit(init)(jax.random.key(0))
        output = jax.jit(MODEL.apply)({"params": params}, ids, mask)
        single = jax.device_get((params, output, jax.jit(gradient)(params, ids, mask)))

    for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_constraints_take_effect_inside_the_model(mesh):
    """Nothing but the model's own constraints says how the replicated input is to be cut."""
    params = jax.jit(init)(jax.random.key(0))
    params = jax.device_put(params, NamedSharding(mesh, partition_spec(())))
    ids, mask = jax.device_put(batch(), NamedSharding(mesh, partition_spec(())))
    seen = {}

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.module.name in ("embeddings", "attention", "up"):
            name = context.module.name
            jax.debug.inspect_array_sharding(
                out, callback=lambda sharding: seen.setdefault(name, sharding)
            )
        return out

    with nn.intercept_methods(watch):
        out = jax.jit(lambda p: MODEL.apply({"params": p}, ids, mask))(params)
    expected = NamedSharding(mesh, partition_spec(("batch", "length", "act_embed")))
    assert out.sharding.is_equivalent_to(expected, out.ndim)
    assert seen["embeddings"].is_equivalent_to(expected, 3)
    up = NamedSharding(mesh, partition_spec(("batch", "length", "act_mlp")))
    assert seen["up"].is_equivalent_to(up, 3)


def test_a_pretrained_folder_loads_onto_the_mesh_by_slices(mesh, tmp_path, monkeypatch):
    tensors = fake_tensors()
    save_file(tensors, tmp_path / "model.safetensors")
    folder = PretrainedFolder(tmp_path, BERT.describe(CONFIG), Tensors(tmp_path))
    target = nn.unbox(jax.eval_shape(MODEL.init, jax.random.key(0), *batch()))["params"]
    whole, _ = load_transformer(folder, target)

    largest = {}
    read = Tensors.read

    def watched(self, name, index):
        part = read(self, name, index)
        largest[name] = max(largest.get(name, 0), part.size)
        return part

    monkeypatch.setattr(Tensors, "read", watched)
    target = jax.tree.map(lambda s, sh: s.update(sharding=sh), target, shardings(mesh))
    params, _ = load_transformer(folder, target)
    for leaf, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True):
        assert leaf.sharding == wanted.sharding
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    # Cut by fsdp and tensor: no read takes more than a quarter of the matrix.
    for name in ("attention.self.query", "attention.output.dense", "intermediate.dense"):
        name = f"encoder.layer.1.{name}.weight"
        assert largest[name] == tensors[name].size // 4


def test_unrolled_layers_equal_the_loop_on_the_mesh(mesh):
    params = jax.jit(init, out_shardings=shardings(mesh))(jax.random.key(0))
    ids, mask = batch()
    unrolled = Transformer(dataclasses.replace(CONFIG, unroll=2))
    np.testing.assert_allclose(
        jax.jit(unrolled.apply)({"params": params}, ids, mask),
        jax.jit(MODEL.apply)({"params": params}, ids, mask),
        atol=1e-5,
    )


def test_an_encoder_decoder_gives_the_same_as_on_one_device(mesh):
    """Its vocabulary's scores, cut over devices with rows that only pad; its shared biases."""
    model = EncoderDecoder(
        t5(layers=2, width=16, heads=4, head_dim=4, feed_forward=24, vocab_size=50)
    )
    given = (*batch(), *(x[::-1, :6].copy() for x in batch()))

    def gradient(params, *given):
        def loss(params):
            out = model.apply({"params": params}, *given)
            return jnp.mean(jnp.where(given[-1][..., None], jnp.sin(out), 0))

        return jax.value_and_grad(loss)(params)

    boxed = jax.eval_shape(model.init, jax.random.key(0), *given)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), nn.unbox(boxed)
    )
    expected = jax.jit(gradient)(params, *given)
    rows = NamedSharding(mesh, partition_spec(("batch", "length")))
    sharded = jax.device_put(params, rules.shardings(boxed, mesh))
    actual = jax.jit(gradient)(sharded, *jax.device_put(given, rows))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("preset", ["t5-3b", "t5-1.1-xl"])
def test_every_matrix_of_the_largest_t5_is_cut_by_fsdp_and_tensor(mesh, preset):
    """Abstractly: shapes only, no weights."""
    ids, mask = jax.ShapeDtypeStruct((8, 16), jnp.int32), jax.ShapeDtypeStruct((8, 16), bool)
    model = EncoderDecoder(ENCODER_DECODER_PRESETS[preset])
    boxed = jax.eval_shape(model.init, jax.random.key(0), ids, mask, ids, mask)["params"]
    cut = rules.shardings(boxed, mesh)
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(nn.unbox(boxed)), jax.tree.leaves(cut), strict=True
    ):
        pieces = leaf.size / np.prod(sharding.shard_shape(leaf.shape))
        if leaf.size > 1 << 20:
            assert pieces == mesh.shape["fsdp"] * mesh.shape["tensor"], path


def fake_tensors() -> dict[str, np.ndarray]:
    """Random tensors for every entry of BERT's table, in the folder's shapes."""
    size = {"embed": 32, "heads": 4, "head_dim": 8, "mlp": 48, "vocab": 50, "position": 16,
            "segment": 2}  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {}
    for entry in BERT.entries(CONFIG):
        shape = [int(np.prod([size[axis] for axis in group])) for group in entry.theirs]
        for layer in range(2 if entry.stacked else 1):
            name = entry.name.format(layer=layer)
            tensors[name] = rng.normal(size=shape).astype(np.float32)
    return tensors
