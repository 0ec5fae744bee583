"""The compiled steps: one update, and one batch of predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.losses.objective import Objective
from mmjax.optim.trained import whole
from mmjax.parallel.rules import constrain
from mmjax.parallel.scores import floating
from mmjax.train_state import TrainState

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    module: Any,
    objective: Objective,
    tx: optax.GradientTransformation,
    abstract: TrainState,
    *,
    micro_batch_size: int | None = None,
    ema_decay: float | None = None,
    ema_warmup: bool = False,
    schedule: Callable[[Any], jax.Array] | None = None,
) -> TrainStep:
    """jit of (state, batch) -> (next state, metrics); the state's buffers are given up.

    The update is applied only where the loss and the gradient's norm are finite, inside the
    compiled program, so that a poisoned state can never exist; `metrics["skipped"]` is 1 then,
    and only `step` moves on (the same batch with the same key would fail again).

    Args:
      micro_batch_size: examples that go through the model at a time, over all devices; None: all.
        See `_in_parts`.
      ema_decay, ema_warmup: of the averaged parameters, see `OptimOptions`.

    `metrics`: float32 scalars: the objective's values, "grad_norm" (before clipping,
    of what is trained), "learning_rate", "skipped".
    """
    gradients = functools.partial(_at_once, module, objective)
    if micro_batch_size is not None:
        gradients = functools.partial(_in_parts, module, objective, micro_batch_size)

    def train_step(state: TrainState, batch: Any):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        grads, values, variables = gradients(
            state.params, state.variables, batch, key, state.frozen
        )
        grad_norm = optax.tree.norm(grads)

        def update(params: Any, _: Any, opt_state: Any, ema: Any) -> tuple[Any, ...]:
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            if ema is not None:
                decay = ema_decay
                if ema_warmup:
                    made = _updates_made(state.opt_state)
                    decay = jnp.minimum(decay, (1.0 + made) / (10.0 + made))
                ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
            return params, variables, opt_state, ema

        finite = jnp.isfinite(values["loss"]) & jnp.isfinite(grad_norm)
        before = (state.params, state.variables, state.opt_state, state.ema)
        # A branch, and no choice between two states: that would need the old one after the new one
        # is made, and so a copy of all moments.
        params, variables, opt_state, ema = jax.lax.cond(
            finite, update, lambda *before: before, *before
        )
        metrics = {**values, "grad_norm": grad_norm, "skipped": 1.0 - finite.astype(jnp.float32)}
        if schedule is not None:
            metrics["learning_rate"] = schedule(_updates_made(state.opt_state))
        step, rng, frozen = state.step + 1, state.rng, state.frozen
        return TrainState(step, params, variables, opt_state, ema, rng, frozen), metrics

    placed = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(placed, None))


def _at_once(
    module: Any,
    objective: Objective,
    params: Any,
    variables: Any,
    batch: Any,
    key: jax.Array,
    frozen: Any = None,
) -> tuple[Any, dict[str, jax.Array], Any]:
    """(gradients, the objective's values, the model's other variables after the step)."""

    def loss_fn(params):
        outputs, mutated = module.apply(
            {"params": whole(params, frozen), **variables},
            batch,
            train=True,
            rngs={"dropout": key},
            mutable=list(variables),
        )
        loss, values = objective(outputs, batch)
        return loss, (values, dict(mutated))

    grads, (values, variables) = jax.grad(loss_fn, has_aux=True)(params)
    return grads, values, variables


def _in_parts(
    module: Any,
    objective: Objective,
    size: int,
    params: Any,
    variables: Any,
    batch: Any,
    key: jax.Array,
    frozen: Any = None,
) -> tuple[Any, dict[str, jax.Array], Any]:
    """As `_at_once`, with the memory of a part of the batch and the outputs of all of it.

    Cached gradients (Gao et al., 2021): the outputs of all parts without keeping what led to them,
    the objective's gradient by these outputs, then each part once more, with the same random draws,
    to carry its share on to the parameters. So an objective over all pairs sees the whole batch.
    What the model gives must be a tree of arrays [B, ...] of the examples, or of scalars that
    depend on the parameters alone; and an example's outputs must not depend on other examples.
    """
    B = jax.tree.leaves(batch)[0].shape[0]
    parts = B // size

    def cut(x: jax.Array) -> jax.Array:
        # Every parts-th row: each device cuts its own rows, and nothing moves between devices.
        x = jnp.swapaxes(x.reshape(size, parts, *x.shape[1:]), 0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    def join(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x, 0, 1).reshape(B, *x.shape[2:])

    def apply(params: Any, part: Any, number: jax.Array) -> Any:
        rngs = {"dropout": jax.random.fold_in(key, number)}
        model = {"params": whole(params, frozen), **variables}
        return module.apply(model, part, train=True, rngs=rngs)

    numbered = (jax.tree.map(cut, batch), jnp.arange(parts))
    _, outputs = jax.lax.scan(lambda _, part: (None, apply(params, *part)), None, numbered)
    outputs = jax.tree.map(lambda x: x[0] if x.ndim == 1 else join(x), outputs)

    def loss_fn(learned: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = jax.tree.map(lambda x, y: x if y is None else y, outputs, learned)
        return objective(found, batch)

    slopes, values = jax.grad(loss_fn, has_aux=True)(floating(outputs))
    # A scalar's slope is shared out: each part adds the whole path from it to the parameters.
    slopes = jax.tree.map(lambda x: jnp.full(parts, x / parts) if x.ndim == 0 else cut(x), slopes)

    def carry_on(grads: Any, part: Any) -> tuple[Any, None]:
        (rows, number), slope = part
        _, back = jax.vjp(lambda params: floating(apply(params, rows, number)), params)
        return jax.tree.map(jnp.add, grads, back(slope)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, _ = jax.lax.scan(carry_on, zeros, (numbered, slopes))
    return grads, values, variables


def _updates_made(opt_state: Any) -> jax.Array:
    """The count that the schedule inside the chain reads: skipped steps do not move it."""
    return optax.tree.get_all_with_path(opt_state, "count")[-1][1]


def make_predict_steps(
    predictors: Mapping[str, Callable[[Any, Any], jax.Array]], mesh: Mesh
) -> dict[str, Callable[[Any, Any], jax.Array]]:
    """jit of each predictor, its result on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return {name: jax.jit(fn, out_shardings=everywhere) for name, fn in predictors.items()}
