"""Adapters, moments of rows and columns, and what is frozen: cut over devices as their kernels."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mmjax.models.layers import Projection
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.optim.lora import LoraOptions
from mmjax.optim.trained import make_split
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.steps import make_train_step
from mmjax.train_state import abstract_params, abstract_state, init_state

LAYERS, WIDTH, HEADS, HEAD_DIM = 2, 128, 2, 64


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = Projection((HEADS, HEAD_DIM), ("embed",), ("heads", "head_dim"), name="query")(x)
        y = Projection((WIDTH,), ("heads", "head_dim"), ("embed",), name="output")(jnp.tanh(y))
        return x + y, None


class Toy(nn.Module):
    @nn.compact
    def __call__(self, batch, *, train: bool):
        stack = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(name="layers")(batch["x"], None)
        return Projection((128,), ("embed",), ("joint",), name="head")(x)


def objective(outputs, batch):
    loss = jnp.mean((outputs - 1) ** 2)
    return loss, {"loss": loss}


def run(mesh):
    """Two steps of Adafactor on adapters of the queries and on the head."""
    lora = LoraOptions("query/kernel", rank=4, also_train=("head",))
    options = OptimOptions("adafactor", learning_rate=0.1, schedule="constant", lora=lora)
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(8, WIDTH)).astype("f4")}
    split = make_split((), 0, lora)
    with jax.set_mesh(mesh):
        tx = build_optimizer(options, 10, abstract_params(Toy(), batch, split))
        abstract, init = abstract_state(Toy(), batch, tx, mesh, ema=False, split=split)
        state = init_state(abstract, init, 0)
        step = make_train_step(Toy(), objective, tx, abstract)
        losses = []
        for _ in range(2):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        return state, jax.device_get(state.eval_variables()), losses


@pytest.fixture(scope="module")
def on_eight():
    return run(make_mesh(MeshOptions(2, 2, 2), jax.devices()[:8]))


def test_parts_follow_their_kernels(on_eight):
    state, _, _ = on_eight
    learned, frozen = state.params["layers"], state.frozen["layers"]
    adapter = learned["query"]["kernel"]
    rule = next(part for part in state.opt_state if hasattr(part, "rows"))
    for array, spec in (
        (frozen["query"]["kernel"], P(None, "fsdp", "tensor", None)),
        (frozen["output"]["kernel"], P(None, "tensor", None, "fsdp")),
        (adapter.a, P(None, "fsdp", None)),
        (adapter.b, P(None, None, "tensor", None)),
        (rule.rows["head"]["kernel"], P("fsdp")),
        (rule.columns["head"]["kernel"], P(None)),
        (rule.full["layers"]["query"]["kernel"].b, P(None, None, "tensor", None)),
    ):
        assert array.sharding.spec == spec
        pieces = [1 if axis is None else 2 for axis in spec]
        local = tuple(n // k for n, k in zip(array.shape, pieces, strict=True))
        assert array.addressable_shards[0].data.shape == local


def test_eight_devices_learn_what_one_learns(on_eight):
    _, found, losses = on_eight
    _, wanted, alone = run(make_mesh(MeshOptions(), jax.devices()[:1]))
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
