"""The one optimiser builder: an optax chain from a few options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mmjax.config import limited
from mmjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class OptimOptions:
    """Attributes:
    name: update rule. "adamw" decays weights apart from the gradient (Loshchilov and Hutter).
    learning_rate: at the top of the schedule.
    schedule: counted from the end of the warm-up: "constant"; "linear" or "cosine" to 0, which the
      update after the last would have; "staircase": learning_rate x decay_rate^floor(step /
      decay_steps), as PhotoChat states.
    warmup_steps: updates of linear rise; number i of them has learning_rate x i / warmup_steps.
    warmup_fraction: the same as a fraction of the run; give one of the two.
    decay_rate, decay_steps: of "staircase".
    b1, b2, eps: of Adam.
    weight_decay: of "adamw".
    no_decay: parameters whose path matches this expression are not decayed.
    clip_norm: gradients are scaled down to this global norm; None: never.
    ema_decay: evaluation uses an average of the parameters with this decay; None: the
      parameters themselves.
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = limited(5e-5, low=0)
    schedule: Literal["constant", "linear", "cosine", "staircase"] = "linear"
    warmup_steps: int | None = limited(None, low=0)
    warmup_fraction: float | None = limited(None, low=0, high=1)
    decay_rate: float = limited(0.999, above=0, high=1)
    decay_steps: int = limited(1000, low=1)
    b1: float = limited(0.9, low=0, below=1)
    b2: float = limited(0.999, low=0, below=1)
    eps: float = limited(1e-8, above=0)
    weight_decay: float = limited(0.01, low=0)
    no_decay: str = r"(bias|scale)$"
    clip_norm: float | None = limited(1.0, above=0)
    ema_decay: float | None = limited(None, low=0, high=1)


def build_optimizer(options: OptimOptions, total_steps: int) -> optax.GradientTransformation:
    """The chain: clip, update rule, decay, learning rate.

    Args:
      total_steps: of the run, for schedules that end with it.
    """
    schedule = build_schedule(options, total_steps)
    rules: list[optax.GradientTransformation] = []
    if options.clip_norm is not None:
        rules.append(optax.clip_by_global_norm(options.clip_norm))
    if options.name in ("adam", "adamw"):
        rules.append(optax.scale_by_adam(options.b1, options.b2, options.eps))
    if options.name == "adamw" and options.weight_decay:
        rules.append(
            optax.add_decayed_weights(options.weight_decay, mask=_not_matching(options.no_decay))
        )
    rules.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*rules)


def build_schedule(options: OptimOptions, total_steps: int) -> Callable[[Any], jax.Array]:
    """Learning rate as a function of the number of updates made so far.

    Raises:
      UserError: both warm-ups given, or one that is longer than the run.
    """
    warmup = _warmup_steps(options, total_steps)
    peak, rest = options.learning_rate, max(1, total_steps - warmup)

    def schedule(count):
        after = jnp.maximum(count - warmup, 0)
        progress = jnp.clip(after / rest, 0.0, 1.0)
        factor = {
            "constant": lambda: 1.0,
            "linear": lambda: 1.0 - progress,
            "cosine": lambda: 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "staircase": lambda: options.decay_rate ** (after // options.decay_steps),
        }[options.schedule]()
        # The first update already has a rate: (count + 1) / warmup.
        rise = jnp.minimum(1.0, (count + 1) / warmup) if warmup else 1.0
        return jnp.asarray(peak * rise * factor, jnp.float32)

    return schedule


def _warmup_steps(options: OptimOptions, total_steps: int) -> int:
    if options.warmup_steps is not None and options.warmup_fraction is not None:
        raise UserError(
            "config.optim.warmup_steps and config.optim.warmup_fraction are both set: give one."
        )
    steps = options.warmup_steps
    if steps is None:
        steps = round((options.warmup_fraction or 0.0) * total_steps)
    # A run of no steps only scores the first state.
    if steps > total_steps > 0:
        raise UserError(
            f"config.optim.warmup_steps={steps} does not fit a run of {total_steps} steps."
        )
    return steps


def _not_matching(pattern: str) -> Callable[[Any], Any]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"config.optim.no_decay={pattern!r} is no regular expression: {error}."
        ) from error

    def mask(params: Any) -> Any:
        # Optimiser states are also built over boxed parameters, whose boxes add to the path.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not expression.search(_path(path)), params
        )

    return mask


def _path(path: tuple) -> str:
    """Path of a parameter as "a/b/kernel", without the ".value" of a partitioning box."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")
