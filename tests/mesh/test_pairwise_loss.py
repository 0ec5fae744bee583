"""The pair term over a mesh is the loss of the whole batch, not a mean of the devices' losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.losses.pairwise import HardestHinge, SoftmaxCE, SumHinge, pair_accuracy, pair_term

B, D = 32, 16


def inputs():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(2, B, D)).astype(np.float32) / np.sqrt(D)
    keys = rng.integers(-1, 20, size=(B, 2)).astype(np.int32)
    weights = (np.arange(B) < B - 5).astype(np.float32)
    return rows, columns, keys, weights


@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 2, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize(
    "loss", [SoftmaxCE(), SumHinge(), HardestHinge()], ids=lambda x: type(x).__name__
)
def test_eight_devices_give_the_loss_and_gradient_of_one(loss, shape):
    def term(rows, columns, scale, keys, weights):
        value, weight = pair_term(rows, columns, loss=loss, scale=scale, keys=keys, weights=weights)
        return value, (weight, pair_accuracy(rows, columns, keys=keys, weights=weights))

    def step(rows, columns, scale, keys, weights):
        return jax.value_and_grad(term, argnums=(0, 1, 2), has_aux=True)(
            rows, columns, scale, keys, weights
        )

    rows, columns, keys, weights = inputs()
    one = jax.jit(step)(rows, columns, jnp.float32(4.0), keys, weights)

    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        by_batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        sharded = [jax.device_put(x, by_batch) for x in (rows, columns, keys, weights)]
        many = jax.jit(step)(*sharded[:2], jnp.float32(4.0), *sharded[2:])

    for got, want in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("term", ["loss", "accuracy"])
def test_a_device_holds_its_rows_of_the_scores_and_never_all(term):
    def gradient(rows, columns):
        return jax.grad(lambda r: pair_term(r, columns, loss=SoftmaxCE())[0])(rows)

    rows, columns, *_ = inputs()
    mesh = jax.make_mesh((4, 2, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        # Inputs on every device: only the constraint can say that the scores are cut.
        everywhere = NamedSharding(mesh, PartitionSpec())
        placed = [jax.device_put(x, everywhere) for x in (rows, columns)]
        function = gradient if term == "loss" else pair_accuracy
        text = jax.jit(function).lower(*placed).compile().as_text()
    assert f"f32[{B // 8},{B}]" in text
    assert f"f32[{B},{B}]" not in text
