"""FLOPs are those of the formulas, whatever loops and transformations stand around the products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from mmjax.models.presets import bert
from mmjax.models.transformer import Transformer
from mmjax.observe.chips import CHIPS, peak_flops
from mmjax.observe.flops import matmul_flops, training_flops

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
ONE = 2 * 8**3  # one product of two squares


def repeated(x, unroll=1):
    return jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=5, unroll=unroll)[0]


def test_a_product_in_a_loop_counts_as_often_as_it_is_made():
    assert matmul_flops(lambda x: x @ x + x, SQUARE) == ONE
    assert matmul_flops(jax.jit(repeated), SQUARE) == 5 * ONE
    assert matmul_flops(jax.checkpoint(repeated), SQUARE) == 5 * ONE
    # XLA counts the body of a loop once, but all of it where no loop is left.
    unrolled = jax.jit(lambda x: repeated(x, unroll=5)).lower(SQUARE).compile()
    assert unrolled.cost_analysis()["flops"] == 5 * ONE


def test_a_batched_product_and_a_convolution_count_their_multiply_adds_twice():
    a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 6))
    assert matmul_flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6
    image, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 2, 6))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (2, 2),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    # 3 x 3 places of 6 channels, each from 3 x 3 places of its group's 2 channels.
    assert matmul_flops(convolve, image, kernel) == 2 * (2 * 3 * 3 * 6) * (3 * 3 * 2)


def test_the_dearer_branch_counts_and_every_device_does():
    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert matmul_flops(branch, SQUARE) == 2 * ONE
    devices = len(jax.devices())
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    cut = PartitionSpec("data")
    mapped = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=cut, out_specs=cut)
    assert matmul_flops(mapped, jnp.zeros((8 * devices, 8))) == devices * ONE


def test_a_product_in_a_loop_without_known_trips_is_an_error():
    def endless(x, body):
        return jax.lax.while_loop(lambda x: x.sum() < 1, body, x)

    assert matmul_flops(lambda x: endless(x, lambda x: x + 1), SQUARE) == 0
    with pytest.raises(ValueError, match="how often the body of a while"):
        matmul_flops(lambda x: endless(x, lambda x: x @ x), SQUARE)


def test_a_transformer_and_its_gradients_have_the_flops_of_the_formula():
    B, L, D, M, N = 3, 16, 32, 64, 5
    config = bert(layers=N, width=D, heads=4, feed_forward=M, vocab_size=50)
    module, ids = Transformer(config), jnp.zeros((B, L), jnp.int32)
    mask = jnp.ones((B, L), bool)
    variables = jax.eval_shape(module.init, jax.random.key(0), ids, mask)

    def loss(variables, ids, mask):
        return module.apply(variables, ids, mask).sum()

    logits = 2 * N * B * L * L * D
    forward = 2 * N * B * L * (4 * D * D + 2 * D * M) + 2 * logits
    assert matmul_flops(loss, variables, ids, mask) == forward
    assert training_flops(loss, variables, ids, mask) == 3 * forward
    # The backward pass makes the attention's logits once more, which model FLOPs leave out.
    assert matmul_flops(jax.grad(loss), variables, ids, mask) == 3 * forward + logits


def test_a_device_has_its_share_of_its_chips_published_peak():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v3") == 123e12 / 2  # a device is one of two cores
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3")
    assert peak_flops(jax.devices("cpu")[0].device_kind) is None
    for chip in CHIPS.values():  # of one order for all: a digit too many would stand out
        assert 20 < chip.memory_bandwidth / chip.memory < 50
        assert 60 < chip.peak_flops / chip.memory_bandwidth < 600
        assert 2 < chip.memory_bandwidth / chip.link_bandwidth < 13
