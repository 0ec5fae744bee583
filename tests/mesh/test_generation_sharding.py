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
from mmjax.losses.response import response_loss
from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.presets import gpt2
from mmjax.models.vocabulary import vocabulary_cross_entropy
from mmjax.parallel import rules
from mmjax.parallel.rules import partition_spec

TEXT = gpt2(layers=1, width=32, heads=4, vocab_size=100, max_positions=20, dropout=0.0)
MODEL, COPYING = (Decoder(DecoderConfig(TEXT, copies=copies)) for copies in (False, True))


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        yield mesh


def batch():
    ids = np.random.default_rng(0).integers(0, 100, (8, 9)).astype(np.int32)
    mask = np.arange(9) < np.arange(2, 10)[:, None]
    response = {"ids": np.zeros((8, 9), np.int32), "mask": mask}
    return {
        "text": {"ids": ids, "mask": mask},
        "response": response,
        "weight": np.ones(8, np.float32),
    }


def on_mesh(tree, mesh, *axes):
    def place(x):
        return NamedSharding(mesh, partition_spec((*axes, *[None] * (x.ndim - len(axes)))))

    return jax.device_put(tree, jax.tree.map(place, tree))


def drawn(model, batch):
    """(the variables with their axes, values)"""
    boxed = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), batch)
    rng = np.random.default_rng(1)
    return boxed, jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32), nn.unbox(boxed)
    )


def one_device(mesh):
    devices = jax.devices()[:1]
    return jax.set_mesh(
        jax.make_mesh((1, 1, 1), mesh.axis_names, axis_types=mesh.axis_types, devices=devices)
    )


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (MODEL, DecodingOptions(max_new_tokens=6, sample=True, answers=2, top_k=20)),
        (MODEL, DecodingOptions(max_new_tokens=6, beams=3, answers=2)),
        (COPYING, DecodingOptions(max_new_tokens=6, beams=3, answers=2)),
    ],
    ids=["sampling", "beams", "copies"],
)
def test_the_same_tokens_are_written(mesh, model, options):
    boxed, variables = drawn(model, batch())

    @jax.jit
    def write(variables, batch):
        text = batch["text"]
        writer = generator(model, variables, batch, text["ids"], text["mask"])
        found = generate(writer, options, eos_id=7, pad_id=0, key=jax.random.key(2))
        _, cache = writer.begin(3, 4)
        return found, getattr(cache, "decoder", cache).layers[0].own.key

    sharded = jax.device_put(variables, rules.shardings(boxed, mesh))
    found, keys = write(sharded, on_mesh(batch(), mesh, "batch"))
    assert keys.addressable_shards[0].data.shape == (2, 2, 8, 21)  # of [8, 4, 8, 21]
    with one_device(mesh):
        expected, _ = write(variables, batch())
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_what_copies_learns_the_same(mesh):
    known = batch()
    known["response"]["ids"][:, 4:] = 1
    known["text"]["ids"][:, 5:8] = known["text"]["ids"][:, 1:4]
    boxed, variables = drawn(COPYING, known)

    @jax.jit
    def learn(variables, batch):
        def loss(variables):
            return response_loss(COPYING.apply(variables, batch, train=False), batch)[0]

        return jax.value_and_grad(loss)(variables)

    sharded = jax.device_put(variables, rules.shardings(boxed, mesh))
    found = learn(sharded, on_mesh(known, mesh, "batch"))
    with one_device(mesh):
        expected = learn(variables, known)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


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
    with one_device(mesh):
        expected = loss(hidden, words, labels)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
