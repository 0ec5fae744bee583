"""A batch in parts is the whole batch: the same loss, the same gradients, a part of the memory."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses.objective import LocalTerm, Objective, PairTerm
from mmjax.losses.pairwise import SoftmaxCE, SumHinge
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.presets import PRESETS, bert
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.steps import _at_once, _in_parts, make_train_step
from mmjax.train_state import abstract_params, abstract_state, count
from tests.pair_oracle import CROSS, LOSSES, QUICK_TO_COMPILE, random_case

TINY = bert(layers=2, width=16, heads=2, feed_forward=32, vocab_size=64, max_positions=16)
STILL = dataclasses.replace(TINY, dropout=0.0, attention=TINY.attention.copy(dropout=0.0))
B, L = 24, 8
quick = functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)


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


@pytest.mark.parametrize(
    ("loss", "size"),
    [*((loss, 8) for loss in LOSSES), (SoftmaxCE(), 2), (SoftmaxCE(), 24)],
    ids=lambda x: x if isinstance(x, int) else type(x).__name__,
)
def test_gradients_in_parts_are_those_of_the_whole_batch(loss, size):
    module, goal, batch = model(STILL), objective(loss, local=True), batch_of()
    key, params = jax.random.key(3), params_of(STILL)
    whole = check_parts_against_whole(module, goal, size, params, batch, key)
    assert float(jnp.abs(whole["log_scale"])) > 1e-6


def check_parts_against_whole(module, goal, size, params, batch, key):
    """Returns the gradients."""
    whole = quick(functools.partial(_at_once, module, goal))(params, {}, batch, key)
    parts = quick(functools.partial(_in_parts, module, goal, size))(params, {}, batch, key)
    for name, value in whole[1].items():
        assert parts[1][name] == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole[0]), jax.tree.leaves(parts[0]), strict=True
    ):
        largest = float(jnp.abs(a).max())
        np.testing.assert_allclose(
            b, a, rtol=1e-4, atol=1e-5 * max(1, largest), err_msg=jax.tree_util.keystr(path)
        )
    return whole[0]


class Regions(nn.Module):
    """A model whose outputs are trees, with masks that have no gradient."""

    @nn.compact
    def __call__(self, batch, *, train):
        image, text = batch["image"], batch["text"]
        return {
            "image": {"regions": nn.Dense(7)(image["regions"]), "mask": image["mask"]},
            "text": {"words": nn.Dense(7)(text["words"]), "mask": text["mask"]},
            "scale": self.param("scale", nn.initializers.constant(3.0), ()),
        }


def test_outputs_may_be_trees_that_a_score_of_its_own_reads():
    case = random_case(CROSS, 0, B)
    batch = {
        "text": jax.tree.map(np.float32, case.rows) | {"mask": case.rows["mask"]},
        "image": jax.tree.map(np.float32, case.columns) | {"mask": case.columns["mask"]},
        "keys": case.keys,
        "weight": case.weights,
    }
    term = PairTerm(
        *("pairs", "text", "image", "scale", SumHinge()), score=CROSS.score, tile=(10, 7)
    )
    params = Regions().init(jax.random.key(0), batch, train=False)["params"]
    whole = check_parts_against_whole(
        Regions(), Objective([term]), 8, params, batch, jax.random.key(1)
    )
    assert all(float(jnp.abs(x).max()) > 1e-3 for x in jax.tree.leaves(whole))


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

    want = quick(jax.grad(direct))(params)
    found, *_ = quick(functools.partial(_in_parts, module, goal, size))(params, {}, batch, key)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * max(1, float(jnp.abs(a).max())))


def temporaries_of_minilm(batch_size, micro_batch_size=None):
    """Bytes beside state and batch of a compiled train step; shapes alone, nothing is run."""
    config = dataclasses.replace(PRESETS["minilm-l6"], unroll=1)
    module = DualEncoder(
        DualEncoderConfig(
            config, config, shared=True, pooling="mean", joint_dim=None, logit_scale=20.0
        )
    )
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(batch_size, 64)))
    mesh = make_mesh(MeshOptions())
    with jax.set_mesh(mesh):
        tx = build_optimizer(OptimOptions(), 10, abstract_params(module, batch))
        abstract, _ = abstract_state(module, batch, tx, mesh, ema=False)
        step = make_train_step(
            module, objective(SoftmaxCE()), tx, abstract, micro_batch_size=micro_batch_size
        )
        compiled = step.lower(abstract, batch).compile(QUICK_TO_COMPILE)
    return compiled.memory_analysis().temp_size_in_bytes, count(abstract.params), config.width


def test_minilm_on_4096_examples_takes_the_memory_of_64_and_the_embeddings():
    """What the method must hold beside a part of 64: the embeddings [4096, D] of both sides, their
    gradients, and the parameters' gradients of the parts so far."""
    plain, params, width = temporaries_of_minilm(64)
    parts, *_ = temporaries_of_minilm(4096, micro_batch_size=64)
    embeddings = 2 * 4096 * width * 4
    assert parts <= plain + 2 * embeddings + params * 4
