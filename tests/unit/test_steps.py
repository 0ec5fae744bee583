"""One update: what is applied, what is skipped, what is reported."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import trainer
from mmjax.optim.build import OptimOptions, build_optimizer, build_schedule
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.steps import make_predict_steps, make_train_step
from mmjax.train_state import TrainState, abstract_params, abstract_state, init_state

TOTAL = 10


class Toy(nn.Module):
    """A linear map with dropout, and a running count as batch statistics."""

    @nn.compact
    def __call__(self, batch, *, train: bool):
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        if train:
            seen.value = seen.value + 1
        x = nn.Dropout(0.5, deterministic=not train)(batch["x"])
        return nn.Dense(3)(x)


def objective(outputs, batch):
    loss = jnp.mean((outputs - batch["y"]) ** 2)
    return loss, {"loss": loss, "largest": jnp.max(outputs)}


def batch_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(8, 4)).astype("f4"), "y": rng.normal(size=(8, 3)).astype("f4")}


def make(ema_decay: float | None = None, ema_warmup: bool = False, **optim):
    options = OptimOptions(**{"learning_rate": 0.1, "warmup_steps": 4, **optim})
    tx = build_optimizer(options, TOTAL, abstract_params(Toy(), batch_of(0)))
    mesh = make_mesh(MeshOptions())
    with jax.set_mesh(mesh):
        abstract, init = abstract_state(Toy(), batch_of(0), tx, mesh, ema=ema_decay is not None)
        step = make_train_step(
            Toy(),
            objective,
            tx,
            abstract,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            schedule=build_schedule(options, TOTAL),
        )
        return step, init_state(abstract, init, 0), tx, options, mesh


def host(tree):
    return jax.tree.map(np.array, tree)


def gradient(state: TrainState, batch) -> dict:
    """By the definition, outside the compiled step."""
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.rng)), state.step)

    def loss(params):
        variables = {"params": params, **state.variables}
        outputs, _ = Toy().apply(
            variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return objective(outputs, batch)[0]

    return jax.grad(loss)(state.params)


def test_an_update_is_that_of_the_optimiser():
    step, state, tx, _, _ = make()
    before = host(state)
    grads = gradient(before, batch_of(1))
    updates, _ = tx.update(grads, before.opt_state, before.params)
    wanted = host(optax.apply_updates(before.params, updates))
    state, metrics = step(state, batch_of(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, wanted)
    assert int(state.step) == 1
    assert float(state.variables["batch_stats"]["seen"]) == 1
    norm = np.sqrt(sum(np.sum(np.square(g, dtype="f8")) for g in jax.tree.leaves(host(grads))))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(metrics["skipped"]) == 0


def test_the_gradient_norm_is_that_before_clipping():
    (clipped, a, *_), (free, b, *_) = make(clip_norm=1e-3), make(clip_norm=None)
    norms = [float(step(s, batch_of(1))[1]["grad_norm"]) for step, s in ((clipped, a), (free, b))]
    assert norms[0] == norms[1] > 1e-3


def test_every_step_draws_its_own_random_numbers():
    """The same batch twice: only the dropout differs, and with the step it differs."""
    step, state, *_ = make(learning_rate=0.0)
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch_of(1))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    step, state, *_ = make(learning_rate=0.0)
    assert float(step(state, batch_of(1))[1]["loss"]) == losses[0]


@pytest.mark.parametrize("warmup", [False, True])
def test_averaged_parameters_are_what_evaluates(warmup):
    """With a warm-up, the first averages leave the first values behind; a skipped step is none."""
    step, state, *_ = make(ema_decay=0.2, ema_warmup=warmup)
    wanted, made = jax.tree.map(lambda x: x.astype("f8"), host(state.params)), 0
    for k in range(5):
        batch = batch_of(k)
        if k == 2:
            batch["y"][0, 0] = np.nan
        state, _ = step(state, batch)
        if k == 2:
            continue
        decay = min(0.2, (1 + made) / (10 + made)) if warmup else 0.2
        made += 1
        step_on = functools.partial(lambda d, e, p: d * e + (1 - d) * p, decay)
        wanted = jax.tree.map(step_on, wanted, host(state.params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, wanted
    )
    assert state.eval_variables()["params"] is state.ema
    assert trainer.best_tree(state)["variables"]["params"] is state.ema


@pytest.mark.parametrize("poison", ["nan in the batch", "infinite loss", "infinite gradient"])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(poison):
    step, state, *_ = make(ema_decay=0.9)
    state, _ = step(state, batch_of(0))
    before = host(state)
    bad = batch_of(1)
    if poison == "nan in the batch":
        bad["y"][3, 2] = np.nan
    elif poison == "infinite loss":
        bad["y"][0, 0] = 1e30
    else:
        bad["y"][:] = 1e18  # its square is finite, that of the gradient is not
        bad["x"][:] = 1e3
    state, metrics = step(state, bad)
    after = host(state)
    assert float(metrics["skipped"]) == 1
    assert int(after.step) == int(before.step) + 1
    for name in ("params", "variables", "opt_state", "ema", "rng"):
        pairs = zip(
            jax.tree.leaves(getattr(before, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        )
        assert all(a.tobytes() == b.tobytes() for a, b in pairs), name
    state, metrics = step(state, batch_of(2))
    assert float(metrics["skipped"]) == 0 and np.isfinite(float(metrics["loss"]))


def test_the_learning_rate_that_is_told_is_the_one_that_was_used():
    """With plain gradient descent the step tells its rate; a skipped step does not use one up."""
    step, state, _, options, _ = make(name="sgd", clip_norm=None)
    schedule, updates = build_schedule(options, TOTAL), 0
    for k in range(6):
        batch = batch_of(k)
        if k in (1, 3):
            batch["y"][0, 0] = np.nan
        before = host(state)
        grads = host(gradient(before, batch))
        state, metrics = step(state, batch)
        told = float(metrics["learning_rate"])
        if k in (1, 3):
            assert float(metrics["skipped"]) == 1
            continue
        moved = before.params["Dense_0"]["bias"] - np.asarray(state.params["Dense_0"]["bias"])
        np.testing.assert_allclose(moved, told * grads["Dense_0"]["bias"], rtol=1e-4, atol=1e-7)
        assert told == float(schedule(updates))
        updates += 1


def test_the_state_is_given_up():
    step, state, *_ = make()
    leaves = jax.tree.leaves(state)
    step(state, batch_of(1))
    assert all(leaf.is_deleted() for leaf in leaves)


def test_predictions_are_on_every_device():
    *_, mesh = make()
    steps = make_predict_steps({"double": lambda v, b: v * b["x"]}, mesh)
    with jax.set_mesh(mesh):
        found = steps["double"](2.0, batch_of(0))
    np.testing.assert_array_equal(found, 2 * batch_of(0)["x"])
    assert found.sharding.is_fully_replicated


def test_an_update_makes_no_second_copy_of_the_moments():
    """Beside the gradient and what clipping makes of it, the state changes in place."""

    class Table(nn.Module):
        @nn.compact
        def __call__(self, batch, *, train: bool):
            table = self.param("table", nn.initializers.normal(), (512, 1024))
            return jnp.sum(table**2)

    def norm(outputs, batch):
        return outputs, {"loss": outputs}

    tx = build_optimizer(OptimOptions(), TOTAL, abstract_params(Table(), batch_of(0)))
    mesh = make_mesh(MeshOptions())
    with jax.set_mesh(mesh):
        abstract, init = abstract_state(Table(), batch_of(0), tx, mesh, ema=False)
        step = make_train_step(Table(), norm, tx, abstract)
        memory = step.lower(init_state(abstract, init, 0), batch_of(0)).compile().memory_analysis()
    size = 4 * 512 * 1024
    assert memory.alias_size_in_bytes >= 3 * size
    assert memory.temp_size_in_bytes < 2.5 * size
