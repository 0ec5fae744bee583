"""The optimiser: schedules against closed forms, updates against optax' own and a hand's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.errors import UserError
from mmjax.models.presets import bert
from mmjax.models.transformer import Transformer
from mmjax.optim.build import OptimOptions, build_optimizer, build_schedule
from mmjax.parallel import rules

LAYERS = 3


def rates(total: int, **options) -> np.ndarray:
    schedule = build_schedule(OptimOptions(learning_rate=2.0, **options), total)
    return np.array([schedule(jnp.int32(i)) for i in range(total + 3)])


def test_constant():
    np.testing.assert_allclose(rates(5, schedule="constant"), 2.0)


def test_linear_falls_to_zero_when_the_run_is_over():
    found = rates(10, schedule="linear")
    np.testing.assert_allclose(found[:11], 2.0 * (1 - np.arange(11) / 10), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found[10:], 0)


def test_cosine_falls_to_zero_when_the_run_is_over():
    found = rates(10, schedule="cosine")
    want = 1 + np.cos(np.pi * np.arange(11) / 10)
    np.testing.assert_allclose(found[:11], want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[10:], 0, atol=1e-6)


def test_the_staircase_is_the_papers():
    """PhotoChat, section 5.3: 5e-5, decayed by 0.999 every 1,000 steps."""
    schedule = build_schedule(OptimOptions(learning_rate=5e-5, schedule="staircase"), 10**6)
    for step in (0, 999, 1000, 1999, 2000, 123_456):
        want = 5e-5 * 0.999 ** (step // 1000)
        np.testing.assert_allclose(schedule(jnp.int32(step)), want, rtol=1e-5)


@pytest.mark.parametrize("given", [{"warmup_steps": 4}, {"warmup_fraction": 0.2}], ids=str)
def test_a_warm_up_rises_from_the_first_update_and_the_rest_falls(given):
    found = rates(20, schedule="linear", **given)
    np.testing.assert_allclose(found[:4], 2.0 * np.arange(1, 5) / 4, rtol=1e-6)
    falling = 2.0 * (1 - np.arange(17) / 16)
    np.testing.assert_allclose(found[4:21], falling, rtol=1e-6, atol=1e-7)


def test_a_run_that_is_all_warm_up_reaches_the_top():
    np.testing.assert_allclose(rates(4, warmup_steps=4)[:4], [0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    ("options", "total", "message"),
    [
        ({"warmup_steps": 5, "warmup_fraction": 0.1}, 100, "are both set: give one"),
        ({"warmup_steps": 11}, 10, "warmup_steps=11 does not fit a run of 10 steps"),
    ],
)
def test_a_warm_up_that_makes_no_sense_is_named(options, total, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(OptimOptions(**options), total)


def test_a_run_of_no_steps_only_scores_whatever_its_warm_up():
    build_optimizer(OptimOptions(warmup_steps=10), 0)


def test_a_broken_expression_is_named():
    with pytest.raises(UserError, match=r"no_decay='\(bias' is no regular expression"):
        build_optimizer(OptimOptions(no_decay="(bias"), 10).init({"kernel": jnp.ones(2)})


def trees(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(LAYERS, 4, 5)), jnp.float32)},
        "head": {
            "kernel": jnp.asarray(rng.normal(size=(5, 2)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=2), jnp.float32),
        },
        "norm": {"scale": jnp.asarray(rng.normal(size=5), jnp.float32)},
    }


def run(tx, steps=6) -> dict:
    params = trees(0)
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(trees(i + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def agree(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


def test_adamw_is_optax_adamw_with_the_mask_of_matrices():
    options = OptimOptions(learning_rate=0.1, weight_decay=0.3, schedule="linear", clip_norm=None)
    decayed = jax.tree.map(lambda x: x.ndim > 1, trees(0))
    reference = optax.adamw(
        optax.linear_schedule(0.1, 0.0, 6), eps=1e-8, weight_decay=0.3, mask=decayed
    )
    agree(run(build_optimizer(options, 6)), run(reference))


def test_adamw_is_the_papers_algorithm():
    """Loshchilov and Hutter, 2019, algorithm 2, in float64 numpy."""
    options = OptimOptions(
        learning_rate=0.1, weight_decay=0.3, schedule="constant", clip_norm=1.0, b1=0.8, b2=0.9
    )

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(0))
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    for t in range(1, 7):
        grads = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(t))
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, n=norm: g * min(1.0, 1.0 / n), grads)
        first = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g**2, second, grads)

        def update(p, m, v, t=t):
            step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
            return p - 0.1 * (step + (0.3 * p if p.ndim > 1 else 0))

        params = jax.tree.map(update, params, first, second)
    agree(run(build_optimizer(options, 6)), params)


def test_adam_and_sgd_do_not_decay():
    common = {"learning_rate": 0.1, "schedule": "constant", "clip_norm": None, "weight_decay": 0.5}
    agree(run(build_optimizer(OptimOptions("adam", **common), 6)), run(optax.adam(0.1)))
    agree(run(build_optimizer(OptimOptions("sgd", **common), 6)), run(optax.sgd(0.1)))


@pytest.mark.parametrize(("clip", "factor"), [(None, 1.0), (1e6, 1.0), (0.5, None)])
def test_only_gradients_above_the_norm_are_scaled_down_to_it(clip, factor):
    tx = build_optimizer(
        OptimOptions("sgd", learning_rate=1.0, schedule="constant", clip_norm=clip), 6
    )
    grads = trees(1)
    updates, _ = tx.update(grads, tx.init(trees(0)), trees(0))
    factor = 0.5 / float(optax.tree.norm(grads)) if factor is None else factor
    agree(updates, jax.tree.map(lambda g: -factor * g, grads))


def test_decay_hits_matrices_and_tables_of_the_real_model_and_nothing_else():
    """Stacked layers too, whose biases are matrices; and whether or not axes carry names."""
    module = Transformer(bert(layers=LAYERS, width=16, heads=2, feed_forward=32, vocab_size=50))
    ids = jnp.zeros((1, 4), jnp.int32)
    named = module.init(jax.random.key(0), ids, ids == 0)["params"]
    plain = rules.unbox(named)  # the names are boxes around the arrays
    tx = build_optimizer(OptimOptions(learning_rate=1.0, schedule="constant", clip_norm=None), 10)
    for params in (named, plain):
        zero = jax.tree.map(jnp.zeros_like, params)
        params = jax.tree.map(lambda x: x + 1.0, params)
        updates, _ = tx.update(zero, tx.init(params), params)
        leaves = jax.tree_util.tree_leaves_with_path(rules.unbox(updates))
        keystr = jax.tree_util.keystr
        moved = {keystr(p, simple=True, separator="/"): bool(x.any()) for p, x in leaves}
        assert moved == {name: name.endswith(("kernel", "embedding")) for name in moved}
        assert sum(moved.values()) == 3 + 6 and len(moved) == 3 + 2 + 6 * 2 + 2 * 2
    assert plain["layers"]["feed_forward"]["up"]["bias"].ndim == 2
