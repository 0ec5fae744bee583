"""Adafactor of stacked kernels at their natural rank, against PyTorch's on plain matrices."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from transformers.optimization import Adafactor

from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.optim.factored import scale_by_adafactor
from mmjax.optim.parameters import describe
from mmjax.parallel import rules

LAYERS, STEPS, RATE = 2, 5, 0.01

# name -> shape, names of axes, rows of one layer's matrix (None: it is none)
PARAMETERS = {
    "query": ((LAYERS, 6, 2, 4), ("layers", "embed", "heads", "head_dim"), 6),
    "output": ((LAYERS, 2, 4, 6), ("layers", "heads", "head_dim", "embed"), 8),
    "table": ((9, 6), ("vocab", "embed"), 9),
    "convolution": ((3, 3, 2, 5), ("spatial", "spatial", "channels_in", "channels_out"), 18),
    "bias": ((LAYERS, 2, 4), ("layers", "heads", "head_dim"), None),
    "scale": ((6,), ("embed",), None),
}


def numbers(seed: int) -> dict[str, np.ndarray]:
    """Of sizes apart: the layers' too, which a mean over the whole stack would mix."""
    rng, found = np.random.default_rng(seed), {}
    for name, (shape, names, _) in PARAMETERS.items():
        found[name] = rng.normal(size=shape).astype("f4")
        if names[0] == "layers":
            found[name][1] *= 20
    return found


def boxes(tree):
    return {k: nn.LogicallyPartitioned(jnp.asarray(x), PARAMETERS[k][1]) for k, x in tree.items()}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Each layer's matrix by itself, as transformers trains T5."""
    first, parts = numbers(0), {}
    for name, (shape, names, rows) in PARAMETERS.items():
        layers = range(LAYERS) if names[0] == "layers" else [None]
        for i in layers:
            own = shape[1:] if i is not None else shape
            matrix = (rows, -1) if rows else (int(np.prod(own)),)
            parts[name, i] = (torch.nn.Parameter(torch.tensor(first[name] if i is None else
                              first[name][i]).reshape(matrix)), matrix)  # fmt: skip
    optimizer = Adafactor([p for p, _ in parts.values()], lr=RATE, relative_step=False)
    for step in range(1, STEPS + 1):
        grads = numbers(step)
        for (name, i), (p, matrix) in parts.items():
            p.grad = torch.tensor(grads[name] if i is None else grads[name][i]).reshape(matrix)
        optimizer.step()
    found = {}
    for name, (shape, names, _) in PARAMETERS.items():
        layers = range(LAYERS) if names[0] == "layers" else [None]
        found[name] = np.stack([parts[name, i][0].detach().numpy() for i in layers]).reshape(shape)
    return found


def run(tx, params):
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(1, STEPS + 1):
        updates, state = update(jax.tree.map(jnp.asarray, numbers(step)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_each_layers_matrix_is_updated_as_by_itself(reference):
    params = jax.tree.map(jnp.asarray, numbers(0))
    rule = scale_by_adafactor(describe(boxes(params)), factor_from=2)
    found = run(optax.chain(rule, optax.scale(-RATE)), params)
    for name, want in reference.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-5, err_msg=name)
        assert np.abs(want - numbers(0)[name]).max() > RATE  # something was learned


def test_memory_is_that_of_rows_and_columns_and_axes_keep_their_names():
    params = boxes(numbers(0))
    state = scale_by_adafactor(describe(params), factor_from=2).init(params)
    wanted = {
        "query": (("layers", "embed"), ("layers", "heads", "head_dim")),
        "output": (("layers", "heads", "head_dim"), ("layers", "embed")),
        "table": (("vocab",), ("embed",)),
        "convolution": (("spatial", "spatial", "channels_in"), ("channels_out",)),
    }
    for name, (rows, columns) in wanted.items():
        assert state.rows[name].names == rows and state.columns[name].names == columns
        assert state.full[name] is None
        sizes = dict(zip(PARAMETERS[name][1], PARAMETERS[name][0], strict=True))
        assert state.rows[name].value.shape == tuple(sizes[axis] for axis in rows)
        assert state.columns[name].value.shape == tuple(sizes[axis] for axis in columns)
    for name in ("bias", "scale"):
        assert state.rows[name] is None and state.columns[name] is None
        assert state.full[name].names == PARAMETERS[name][1]


def test_small_matrices_keep_their_whole_moment():
    """As T5's: from 128 on; and the name in the config chooses this rule."""
    big = {"a": jnp.ones((128, 2, 64)), "b": jnp.ones((127, 128)), "c": jnp.ones((128, 130))}
    names = {"a": ("embed", "heads", "head_dim"), "b": ("x", "y"), "c": ("x", "y")}
    named = {k: nn.LogicallyPartitioned(x, names[k]) for k, x in big.items()}
    options = OptimOptions("adafactor", learning_rate=1e-3, schedule="constant", weight_decay=0.5)
    tx = build_optimizer(options, 10, named)
    state = tx.init(big)
    shapes = [x.shape for x in jax.tree.leaves(state) if x.ndim]
    assert sorted(shapes) == sorted([(128,), (2, 64), (127, 128), (128,), (130,)])
    zeros = jax.tree.map(jnp.zeros_like, big)
    updates, _ = tx.update(zeros, state, big)  # no weight decay
    assert all(not x.any() for x in jax.tree.leaves(rules.unbox(updates)))
