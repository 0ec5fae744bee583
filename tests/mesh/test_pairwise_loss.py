"""The pair term over a mesh is the loss of the whole batch, made on a ring and in tiles."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.losses.pairwise import HardestHinge, Sigmoid, SoftmaxCE, SumHinge, pair_term
from tests.pair_oracle import oracle, random_case

B, D = 24, 5
SCALE = 3.0
LOSSES = [SoftmaxCE(), SumHinge(0.2), HardestHinge(0.2), Sigmoid()]
# Data x fsdp x tensor, and the tiles of a device's 24, 3, 3, 6 rows: whole, ragged, single.
MESHES = {(1, 1, 1): (10, 7), (8, 1, 1): (2, 256), (4, 2, 1): (1, 2), (2, 2, 2): (4, 4)}


def mesh_of(shape):
    devices = jax.devices()[: int(np.prod(shape))]
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3, devices=devices)


@functools.partial(jax.jit, static_argnames=("loss", "tile"))
def step(rows, columns, scale, bias, keys, weights, loss, tile):
    def term(rows, columns, scale, bias):
        sums = pair_term(
            *(rows, columns),
            loss=loss,
            scale=scale,
            bias=bias,
            keys=keys,
            weights=weights,
            tile=tile,
        )
        return sums.total, sums

    return jax.value_and_grad(term, argnums=(0, 1, 2, 3), has_aux=True)(rows, columns, scale, bias)


def placed(mesh, *arrays):
    by_batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return [jax.device_put(x, by_batch) for x in arrays]


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_value_and_gradients_are_those_of_float64_loops(loss, shape):
    """Random duplicates and padding, batches that do not divide into tiles, every mesh."""
    for seed in range(4):
        rows, columns, keys, weights = random_case(seed, B, D)
        if seed == 3:
            weights[:3] = 0  # all that one device of eight holds
        want, d_rows, d_columns, d_scale = oracle(rows, columns, loss, SCALE, keys, weights)
        mesh = mesh_of(shape)
        with jax.set_mesh(mesh):
            arrays = placed(mesh, np.float32(rows), np.float32(columns), keys, weights)
            (total, sums), gradients = step(
                *arrays[:2], jnp.float32(SCALE), jnp.float32(0), *arrays[2:], loss, MESHES[shape]
            )
        assert total == pytest.approx(want, rel=1e-5)
        assert sums.weight == weights.sum()
        for got, wanted in zip(gradients, (d_rows, d_columns, d_scale), strict=False):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_the_bias_moves_the_sigmoid_alone(loss):
    rows, columns, keys, weights = (np.float32(x) for x in random_case(0, B, D))
    mesh = mesh_of((4, 2, 1))
    with jax.set_mesh(mesh):
        arrays = placed(mesh, rows, columns, keys.astype(np.int32), weights)

        def total(bias):
            (value, _), gradients = step(
                *arrays[:2], jnp.float32(SCALE), jnp.float32(bias), *arrays[2:], loss, (4, 4)
            )
            return float(value), float(gradients[3])

        (low, _), (here, slope), (high, _) = total(-1.01), total(-1.0), total(-0.99)
    if isinstance(loss, Sigmoid):
        assert slope == pytest.approx((high - low) / 0.02, rel=1e-2) and abs(slope) > 0.1
    else:
        assert slope == pytest.approx(0, abs=1e-4) and low == pytest.approx(here, rel=1e-5)


def test_bfloat16_embeddings_are_scored_and_summed_in_float32():
    rows, columns, keys, weights = random_case(1, B, D)
    rows, columns = (jnp.asarray(x, jnp.bfloat16) for x in (rows, columns))
    exact = [np.asarray(x, np.float64) for x in (rows, columns)]
    want, d_rows, _, _ = oracle(*exact, SoftmaxCE(), SCALE, keys, weights)
    mesh = mesh_of((4, 2, 1))
    with jax.set_mesh(mesh):
        arrays = placed(mesh, rows, columns, keys, weights)
        (total, _), gradients = step(
            *arrays[:2], jnp.float32(SCALE), jnp.float32(0), *arrays[2:], SoftmaxCE(), (4, 4)
        )
    assert total.dtype == jnp.float32 and total == pytest.approx(want, rel=1e-5)
    assert gradients[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(gradients[0]), d_rows, rtol=1e-2, atol=1e-2)


def test_a_row_that_is_no_number_reaches_the_total_and_padding_does_not():
    rows, columns, keys, weights = random_case(1, B, D, padding=False)
    rows = np.float32(rows)
    rows[7] = np.nan
    mesh = mesh_of((8, 1, 1))
    with jax.set_mesh(mesh):
        for weight, finite in ((1.0, False), (0.0, True)):
            weights[7] = weight
            arrays = placed(mesh, rows, np.float32(columns), keys, weights)
            (total, sums), gradients = step(
                *arrays[:2], jnp.float32(SCALE), jnp.float32(0), *arrays[2:], SoftmaxCE(), (4, 4)
            )
            assert bool(jnp.isfinite(total)) == finite
            assert bool(jnp.isfinite(gradients[1]).all()) == finite
            assert bool(jnp.isfinite(sums.right))


def test_a_batch_that_the_devices_do_not_divide_is_still_whole():
    rows, columns, keys, weights = random_case(2, 21, D)
    want, d_rows, _, _ = oracle(rows, columns, SoftmaxCE(), SCALE, keys, weights)
    mesh = mesh_of((4, 2, 1))
    with jax.set_mesh(mesh):
        (total, _), gradients = step(
            *(jnp.float32(rows), jnp.float32(columns), jnp.float32(SCALE), jnp.float32(0)),
            *(jnp.asarray(keys), jnp.asarray(weights), SoftmaxCE(), (4, 4)),
        )
    assert total == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(gradients[0], d_rows, rtol=1e-5, atol=1e-5)


def test_no_device_ever_holds_more_than_a_tile_of_the_scores():
    big = 512
    rows = jnp.zeros((big, 16), jnp.float32)
    mesh = mesh_of((4, 2, 1))
    with jax.set_mesh(mesh):
        # Inputs on every device: only the ring can say that the scores are cut.
        everywhere = NamedSharding(mesh, PartitionSpec())
        given = [jax.device_put(x, everywhere) for x in (rows, rows)]

        def gradient(rows, columns):
            return jax.grad(lambda r: pair_term(r, columns, loss=SoftmaxCE(), tile=(16, 32)).total)(
                rows
            )

        text = jax.jit(gradient).lower(*given).compile().as_text()
    assert "f32[16,32]" in text
    for shape in (f"[{big},{big}]", f"[{big // 8},{big}]", f"[{big // 8},{big // 8}]"):
        assert f"f32{shape}" not in text
