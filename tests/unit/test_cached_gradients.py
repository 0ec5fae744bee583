"""A batch in parts is the whole batch: the same loss, the same gradients, a part of the memory."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses.objective import LocalTerm, Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.presets import bert
from mmjax.steps import _at_once, _in_parts

TINY = bert(layers=2, width=16, heads=2, feed_forward=32, vocab_size=64, max_positions=16)
STILL = dataclasses.replace(TINY, dropout=0.0, attention=TINY.attention.copy(dropout=0.0))
B, L = 24, 8


def model(config) -> DualEncoder:
    return DualEncoder(
        DualEncoderConfig(
            config, config, pooling="mean", joint_dim=8, learn_scale=True, logit_bias=-1.0
        )
    )


def batch_of(size=B, length=L):
    rng = np.random.default_rng(0)

    def side():
        lengths = rng.integers(2, length + 1, size)
        return {
            "ids": rng.integers(0, 64, (size, length)).astype(np.int32),
            "mask": np.arange(length) < lengths[:, None],
        }

    return {
        "query": side(),
        "photo": side(),
        "keys": rng.integers(-1, size, (size, 1)).astype(np.int32),
        "weight": (rng.random(size) < 0.9).astype(np.float32),
    }


def objective(loss, local=False) -> Objective:
    terms = [PairTerm("pairs", "query", "photo", "scale", loss, bias="bias")]
    if local:
        far = LocalTerm("far", lambda o, b: ((o["query"] ** 4).sum(), b["weight"].sum()), 0.3)
        terms.append(far)
    return Objective(terms)


@functools.cache
def params_of(config):
    found = model(config).init(jax.random.key(0), batch_of(), train=False)["params"]
    found = jax.tree.map(lambda x: x.unbox() if hasattr(x, "unbox") else x, found,
                         is_leaf=lambda x: hasattr(x, "unbox"))  # fmt: skip
    # Larger than at the start of a training: gradients that are worth comparing.
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.2 * noise.normal(size=x.shape).astype(np.float32), found)


@pytest.mark.parametrize("size", [2, 8, 24])
@pytest.mark.parametrize(
    "loss", [SoftmaxCE(), SumHinge(), HardestHinge(), Sigmoid()], ids=lambda x: type(x).__name__
)
def test_gradients_in_parts_are_those_of_the_whole_batch(loss, size):
    module, goal, batch = model(STILL), objective(loss, local=True), batch_of()
    key, params = jax.random.key(3), params_of(STILL)
    whole = jax.jit(functools.partial(_at_once, module, goal))(params, {}, batch, key)
    parts = jax.jit(functools.partial(_in_parts, module, goal, size))(params, {}, batch, key)
    for name, value in whole[1].items():
        assert parts[1][name] == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole[0]), jax.tree.leaves(parts[0]), strict=True
    ):
        largest = float(jnp.abs(a).max())
        np.testing.assert_allclose(
            b, a, rtol=1e-4, atol=1e-5 * max(1, largest), err_msg=jax.tree_util.keystr(path)
        )
    assert float(jnp.abs(whole[0]["log_scale"])) > 1e-6


def test_with_dropout_both_passes_draw_the_same():
    """Against the objective of outputs that were made with the same draws, differentiated."""
    module, goal, batch, size = model(TINY), objective(SoftmaxCE()), batch_of(), 8
    key, params = jax.random.key(3), params_of(TINY)

    def direct(params):
        parts = []
        for number in range(B // size):
            rows = jax.tree.map(lambda x, m=number: x[m :: B // size], batch)
            rngs = {"dropout": jax.random.fold_in(key, number)}
            parts.append(module.apply({"params": params}, rows, train=True, rngs=rngs))
        together = {
            name: jnp.stack([part[name] for part in parts], axis=1).reshape(B, -1)
            for name in ("query", "photo")
        }
        outputs = together | {name: parts[0][name] for name in ("scale", "bias")}
        return goal(outputs, batch)[0]

    want = jax.jit(jax.grad(direct))(params)
    found, *_ = jax.jit(functools.partial(_in_parts, module, goal, size))(params, {}, batch, key)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * max(1, float(jnp.abs(a).max())))


def test_a_huge_batch_takes_the_memory_of_a_part_and_the_embeddings():
    module, goal = model(TINY), objective(SoftmaxCE())

    def temporaries(size, part):
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch_of()
        )
        run = functools.partial(_in_parts, module, goal, part)
        key = jax.eval_shape(lambda: jax.random.key(0))
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params_of(TINY))
        compiled = jax.jit(run).lower(params, {}, shapes, key).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(64, 64), temporaries(4096, 64)
    batch = sum(x.nbytes for x in jax.tree.leaves(batch_of())) / B * 4096
    embeddings = 2 * 4096 * 8 * 4
    # Embeddings, their gradients, and their copies in the order of the parts; the batch likewise.
    assert large < small + 2 * batch + 12 * embeddings
    at_once = temporaries(4096, 4096)
    assert large < at_once / 8
