"""Fused attention on eight devices: each computes its rows and heads, as one device does all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType

from mmjax.parallel import attention

B, L, H, K = 4, 128, 2, 8


@pytest.fixture
def mesh(monkeypatch):
    monkeypatch.setattr(attention, "_device", lambda: ("tpu", "TPU v5 lite"))
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with pltpu.force_tpu_interpret_mode(True):
        yield mesh


@pytest.mark.parametrize("biased", [False, True], ids=["splash", "flash"])
def test_rows_and_heads_on_eight_devices_give_what_one_device_gives(mesh, biased):
    """The bias is each row's, so its gradient is a sum over devices."""
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(B, L, H, K)).astype(np.float32) for _ in range(3)]
    number = (np.arange(L) // np.array([[128], [100], [50], [64]])).astype(np.int32)
    bias = rng.normal(size=(H, L, L)).astype(np.float32) if biased else None

    def loss(query, key, value, bias):
        given = (query, key, value, number, number, bias)
        return jnp.sum(jnp.sin(attention.fused_attention(*given, causal=True)))

    function = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3) if biased else (0, 1, 2)))
    expected = function(*tokens, bias)
    with jax.set_mesh(mesh):
        found = function(*tokens, bias)
        assert attention.unsupported(tokens[0], tokens[1]) is None
        assert "8 rows and 3 heads" in attention.unsupported(*[np.zeros((8, L, 3, K))] * 2)
        # Nothing but the gradient of what devices share, and the loss, goes between them.
        assert "all-gather" not in function.lower(*tokens, bias).compile().as_text()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
