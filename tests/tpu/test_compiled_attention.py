"""Fused attention leaves no array of all pairs of tokens in a TPU's program."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding

from mmjax.check.costs import count
from mmjax.check.topology import slice_devices
from mmjax.models.presets import gpt2, t5
from mmjax.models.transformer import Transformer
from mmjax.observe.flops import kernel_flops
from mmjax.parallel import rules

B, L = 16, 1024
GPT = gpt2(layers=2, width=256, heads=4, vocab_size=128, dropout=0.0, attention_dropout=0.0)
BIASED = t5(layers=2, width=256, heads=4, head_dim=64, feed_forward=256, vocab_size=128,
            dropout=0.0).encoder  # fmt: skip
PAIRS = re.compile(rf"\[\d+,(?:\d+,)?{L},{L}\]")  # [rows, heads, L, L], [heads, L, L]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (requirements-test.txt) is missing"
)


@functools.cache
def compiled(config: Any, kernel: str) -> tuple[Any, Any]:
    """Trace and program of the gradient on four chips, two of which share each row's heads."""
    config = dataclasses.replace(config, dtype="bfloat16", remat="full", kernel=kernel)
    axes = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh(
        (2, 1, 2), axes, axis_types=(AxisType.Auto,) * 3, devices=slice_devices("v5e:2x2")
    )
    module, rows = Transformer(config), rules.partition_spec(("batch", "length"))
    ids = jax.ShapeDtypeStruct((B, L), jnp.int32, sharding=NamedSharding(mesh, rows))
    boxed = jax.eval_shape(module.init, jax.random.key(0), ids, ids)["params"]
    params = jax.tree.map(
        lambda x, sharding: x.update(sharding=sharding),
        nn.unbox(boxed),
        rules.shardings(boxed, mesh),
    )

    def loss(params, ids, number):
        out = module.apply({"params": params}, ids, number, train=True)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(loss)).trace(params, ids, ids)
        return traced, traced.lower().compile()


def temporaries(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def test_no_array_of_all_pairs_is_left():
    (_, fused), (_, plain) = compiled(GPT, "fused"), compiled(GPT, "plain")
    assert PAIRS.search(plain.as_text()) and not PAIRS.search(fused.as_text())
    # Less than one such array of bfloat16 on a chip. (XLA keeps some of the plain one's next to the
    # cores, so that its temporaries are no measure.)
    assert temporaries(fused) < (B // 2) * (4 // 2) * L * L * 2


def test_of_a_bias_only_its_own_pairs_are_left_and_those_of_one_row():
    """On a chip [2 heads, L, L]: the bias and its gradient, summed and of one row."""
    _, fused = compiled(BIASED, "fused")
    assert {found[0] for found in PAIRS.finditer(fused.as_text())} <= {
        f"[{shape}{L},{L}]" for shape in ("2,", "1,2,")
    }


def test_the_products_of_kernels_are_counted_with_those_of_the_program():
    traced, fused = compiled(GPT, "fused")
    _, plain = compiled(GPT, "plain")
    found = count(fused.as_text(), [0] * 4)
    assert found.silent_kernels > 0
    found = found.with_kernels(kernel_flops(traced.jaxpr))
    assert found.silent_kernels == 0
    # Both compute a layer twice forward; of the plain one's weights XLA takes the second for the
    # backward pass too, and so has one product less in each layer.
    product = 2 * (B // 2) * (4 // 2) * L * L * 64
    spared = GPT.layers * product
    assert found.flops == pytest.approx(count(plain.as_text(), [0] * 4).flops + spared, rel=1e-6)
