"""A model on eight devices writes what it writes on one, and has the same loss."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding

from mmjax.decoding.generate import generate
from mmjax.decoding.generator import generator
from mmjax.decoding.options import DecodingOptions
from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.presets import gpt2
from mmjax.models.vocabulary import vocabulary_cross_entropy
from mmjax.parallel import rules
from mmjax.parallel.rules import partition_spec

MODEL = Decoder(DecoderConfig(gpt2(layers=1, width=32, heads=4, vocab_size=100, max_positions=20)))


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        yield mesh


def batch():
    ids = np.random.default_rng(0).integers(0, 100, (8, 9)).astype(np.int32)
    return {"text": {"ids": ids, "mask": np.arange(9) < np.arange(2, 10)[:, None]}}


def on_mesh(tree, mesh, *axes):
    def place(x):
        return NamedSharding(mesh, partition_spec((*axes, *[None] * (x.ndim - len(axes)))))

    return jax.device_put(tree, jax.tree.map(place, tree))


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(max_new_tokens=6, sample=True, answers=2, top_k=20),
        DecodingOptions(max_new_tokens=6, beams=3, answers=2),
    ],
    ids=["sampling", "beams"],
)
def test_the_same_tokens_are_written(mesh, options):
    boxed = jax.eval_shape(functools.partial(MODEL.init, train=False), jax.random.key(0), batch())
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), nn.unbox(boxed)
    )

    @jax.jit
    def write(variables, batch):
        text = batch["text"]
        model = generator(MODEL, variables, batch, text["ids"], text["mask"])
        found = generate(model, options, eos_id=7, pad_id=0, key=jax.random.key(2))
        _, cache = model.begin(3, 4)
        return found, cache.layers[0].own.key

    sharded = jax.device_put(variables, rules.shardings(boxed, mesh))
    found, keys = write(sharded, on_mesh(batch(), mesh, "batch"))
    assert keys.addressable_shards[0].data.shape == (2, 2, 8, 21)  # of [8, 4, 8, 21]
    with jax.set_mesh(jax.make_mesh((1, 1, 1), mesh.axis_names, axis_types=mesh.axis_types,
                                    devices=jax.devices()[:1])):  # fmt: skip
        expected, _ = write(variables, batch())
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_the_cross_entropy_in_blocks_is_that_of_one_device(mesh):
    rng = np.random.default_rng(3)
    hidden, words = (rng.normal(size=s).astype(np.float32) for s in ((8, 6, 16), (128, 16)))
    labels = rng.integers(0, 100, (8, 6))

    @jax.jit
    def loss(hidden, words, labels):
        def total(hidden, words):
            return jnp.sum(jnp.sin(vocabulary_cross_entropy(hidden, words, labels, 100, 4)))

        return jax.value_and_grad(total, (0, 1))(hidden, words)

    rows = (on_mesh(x, mesh, "batch") for x in (hidden, labels))
    hidden_there, labels_there = rows
    found = loss(hidden_there, on_mesh(words, mesh, "vocab", "embed"), labels_there)
    with jax.set_mesh(jax.make_mesh((1, 1, 1), mesh.axis_names, axis_types=mesh.axis_types,
                                    devices=jax.devices()[:1])):  # fmt: skip
        expected = loss(hidden, words, labels)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
