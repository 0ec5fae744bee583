"""The compiled steps: one update, and one batch of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.losses.objective import Objective
from mmjax.train_state import TrainState

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    module: Any,
    objective: Objective,
    tx: optax.GradientTransformation,
    abstract: TrainState,
    *,
    ema_decay: float | None = None,
    schedule: Callable[[Any], jax.Array] | None = None,
) -> TrainStep:
    """jit of (state, batch) -> (next state, metrics); the state's buffers are given up.

    The update is applied only where the loss and the gradient's norm are finite, inside the
    compiled program, so that a poisoned state can never exist; `metrics["skipped"]` is 1 then,
    and only `step` moves on (the same batch with the same key would fail again).

    `metrics`: float32 scalars: the objective's values, "grad_norm" (before clipping),
    "learning_rate", "skipped".
    """

    def train_step(state: TrainState, batch: Any):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

        def loss_fn(params):
            outputs, mutated = module.apply(
                {"params": params, **state.variables},
                batch,
                train=True,
                rngs={"dropout": key},
                mutable=list(state.variables),
            )
            loss, values = objective(outputs, batch)
            return loss, (values, dict(mutated))

        grads, (values, variables) = jax.grad(loss_fn, has_aux=True)(state.params)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, params)

        finite = jnp.isfinite(values["loss"]) & jnp.isfinite(grad_norm)
        learned = (params, variables, opt_state, ema)
        before = (state.params, state.variables, state.opt_state, state.ema)
        params, variables, opt_state, ema = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), learned, before
        )
        metrics = {**values, "grad_norm": grad_norm, "skipped": 1.0 - finite.astype(jnp.float32)}
        if schedule is not None:
            metrics["learning_rate"] = schedule(_updates_made(state.opt_state))
        state = TrainState(state.step + 1, params, variables, opt_state, ema, state.rng)
        return state, metrics

    placed = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, None))


def _updates_made(opt_state: Any) -> jax.Array:
    """The count that the schedule inside the chain reads: skipped steps do not move it."""
    return optax.tree.get_all_with_path(opt_state, "count")[-1][1]


def make_predict_steps(
    predictors: Mapping[str, Callable[[Any, Any], jax.Array]], mesh: Mesh
) -> dict[str, Callable[[Any, Any], jax.Array]]:
    """jit of each predictor, its result on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return {name: jax.jit(fn, out_shardings=everywhere) for name, fn in predictors.items()}
