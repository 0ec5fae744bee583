"""Intent on eight devices: the gradients and scores are those of one."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from mmjax.losses.cross_entropy import cross_entropy
from mmjax.models.presets import bert
from mmjax.models.turn_classifier import TurnClassifier, TurnClassifierConfig

MODEL = TurnClassifier(
    TurnClassifierConfig(
        bert(layers=1, width=32, heads=4, feed_forward=48, vocab_size=50, max_positions=16),
        hidden_dim=16,
    )
)


def batch():
    """Eight dialogues of three turns, read once each."""
    rng = np.random.default_rng(0)
    turn = np.tile(np.arange(12) // 4, (8, 1))
    mask = np.arange(12) < np.array([12, 9, 12, 10, 12, 12, 11, 12])[:, None]
    place = np.tile([3, 7, 8], (8, 1))
    return {
        "text": {"ids": rng.integers(0, 50, (8, 12)), "mask": mask},
        "speaker": {"ids": turn % 2, "mask": mask},
        "turn": {"ids": turn, "mask": mask},
        "place": {"ids": place, "mask": np.ones((8, 3), bool)},
        "label": rng.integers(0, 2, (8, 3)),
    }


def gradient(params, batch):
    def loss(params):
        logits = MODEL.apply({"params": params}, batch, train=False)["logits"]
        total, weight = cross_entropy(logits, batch["label"], batch["place"]["mask"])
        return total / weight

    return jax.value_and_grad(loss)(params)


def packed(alone):
    """The same two by two: four rows with two dialogues each, beyond the model's positions."""
    made = {"dialogue": {"ids": np.tile(np.repeat([1, 2], 12), (4, 1))}}
    for name in ("text", "speaker", "turn", "place"):
        made[name] = {key: x.reshape(4, -1) for key, x in alone[name].items()}
    made["place"]["ids"] = made["place"]["ids"] + np.repeat([0, 12], 3)
    return made | {"label": alone["label"].reshape(4, -1)}


@functools.cache
def params():
    init = jax.jit(lambda key: MODEL.init(key, batch(), train=False))
    made = nn.unbox(init(jax.random.key(0)))["params"]
    return jax.tree.map(lambda x: np.asarray(4 * x), made)


@functools.cache
def alone():
    return jax.jit(gradient)(params(), batch())


@pytest.mark.parametrize("rows", [lambda x: x, packed], ids=["as they are", "packed"])
def test_loss_and_gradients_are_those_of_one_device(rows):
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        found = jax.jit(gradient)(params(), rows(batch()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, alone())
