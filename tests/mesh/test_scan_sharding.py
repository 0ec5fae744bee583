"""SCAN on eight devices: ranks, and a step of training, as on one."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge
from mmjax.metrics.retrieval import ranking_from_embeddings
from mmjax.models.gru import GruConfig
from mmjax.models.scan import Scan, ScanConfig
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.steps import make_train_step
from mmjax.train_state import abstract_params, abstract_state, init_state

ONE, EIGHT = (MeshOptions(1, 1, 1), 1), (MeshOptions(2, 2, 2), 8)


def mesh_of(options, devices):
    return make_mesh(options, jax.devices()[:devices])


def sides(Q=6, P=70, W=20, R=3, D=5):
    rng = np.random.default_rng(0)

    def side(n, most):
        mask = np.arange(most) < rng.integers(1, most + 1, (n, 1))
        return np.float32(rng.normal(size=(n, most, D)) * mask[..., None]), mask

    (words, said), (regions, there) = side(Q, W), side(P, R)
    return {"words": words, "mask": said}, {"regions": regions, "mask": there}


def test_ranks_and_the_best_photos_are_those_of_one_device():
    queries, pool = sides()
    gold = np.array([0, 69, 5, 33, 8, 64])

    def ranked(options, devices):
        with jax.set_mesh(mesh_of(options, devices)):
            score = StackedCrossAttention()
            return ranking_from_embeddings(queries, pool, gold, 5, score=score, block=(4, 64))

    one, eight = ranked(*ONE), ranked(*EIGHT)
    np.testing.assert_array_equal(eight.top, one.top)
    for found, wanted in zip(eight.counts, one.counts, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(eight.scores, one.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eight.own, one.own, rtol=1e-5, atol=1e-6)


@functools.cache
def trained(meshed):
    """Loss, gradient's norm and parameters after a step on ragged texts and regions."""
    rng = np.random.default_rng(1)
    B, L, R = 8, 6, 4
    said = np.arange(L) < rng.integers(1, L + 1, (B, 1))
    batch = {
        "query": {"ids": rng.integers(0, 40, (B, L)).astype(np.int32), "mask": said},
        "regions": rng.normal(size=(B, R, 16)).astype(np.float32),
        "region_mask": np.arange(R) < rng.integers(1, R + 1, (B, 1)),
        "keys": np.arange(B, dtype=np.int32)[:, None],
        "weight": np.array([1.0] * 7 + [0.0], np.float32),
    }
    module = Scan(ScanConfig(GruConfig(40, 6, 8, both_ways=True), joint_dim=8))
    term = PairTerm(
        *("pairs", "query", "photo", "scale", HardestHinge(0.2)),
        reduction="sum",
        score=StackedCrossAttention(),
        tile=(2, 2),
    )
    options = OptimOptions(name="sgd", learning_rate=0.1, schedule="constant", clip_norm=None)
    mesh = mesh_of(*(EIGHT if meshed else ONE))
    with jax.set_mesh(mesh):
        tx = build_optimizer(options, 1, abstract_params(module, batch))
        abstract, init = abstract_state(module, batch, tx, mesh, ema=False)
        state = init_state(abstract, init, 0)
        unit = state.params["query_tower"]["gru"]["backward"]["state_kernel"]
        assert not meshed or unit.sharding.shard_shape(unit.shape) == (8, 12)  # fsdp cuts gates
        state, metrics = make_train_step(module, Objective([term]), tx, abstract)(state, batch)
        return jax.device_get(metrics), jax.device_get(state.params)


def test_a_step_of_training_is_that_of_one_device():
    (values, params), (wanted, expected) = trained(True), trained(False)
    for name in ("loss", "grad_norm", "accuracy"):
        assert values[name] == pytest.approx(wanted[name], rel=1e-5), name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, expected
    )
