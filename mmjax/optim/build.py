"""The one optimiser builder: an optax chain from a few options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mmjax.config import duration, limited
from mmjax.errors import UserError
from mmjax.optim.factored import scale_by_adafactor
from mmjax.optim.factors import rate_factors
from mmjax.optim.lora import LoraOptions
from mmjax.optim.parameters import describe, matching

DECAY_STEPS = 1000  # where a config says nothing


@dataclasses.dataclass(frozen=True)
class OptimOptions:
    """Expressions are searched for in the path of a parameter, "query_tower/layers/attention/...".

    Attributes:
      name: update rule. "adamw" and "lion" decay weights apart from the gradient (Loshchilov and
        Hutter 2019; Chen et al. 2023). "adafactor" is T5's: second moments of rows and columns,
        steps relative to the parameter's size, so that 1e-3 is a usual rate (Shazeer and Stern
        2018).
      learning_rate: at the top of the schedule.
      schedule: counted from the end of the warm-up: "constant"; "linear" or "cosine" to end_factor,
        which the update after the last would have; "staircase": learning_rate x decay_rate^floor(
        step / decay_steps), as PhotoChat states, and VSE++ and SCAN with a decay_rate of 0.1 and
        decay_epochs. "rsqrt" counts all updates n made so far:
        learning_rate x sqrt(decay_steps / max(n, decay_steps)); with 0.01 and 10,000 that is T5's
        pre-training.
      warmup_steps: updates of linear rise; number i of them has learning_rate x i / warmup_steps.
      warmup_fraction: the same as a fraction of the run; give one of the two.
      decay_rate: of "staircase".
      decay_steps, decay_epochs, decay_examples: of "staircase" and "rsqrt"; at most one; none:
        1,000 steps.
      end_factor: of learning_rate: where "linear" and "cosine" end; "staircase" and "rsqrt" do not
        fall below it.
      b1, b2: decay of the moments of Adam and of Lion (whose paper has 0.9 and 0.99).
      eps: of Adam.
      bias_correction: of Adam's moments; False as in BERT's own optimiser.
      mu_dtype: of the first moment of Adam and Lion; "bfloat16" halves its memory. The second stays
        float32: a step changes it by a thousandth (1 - b2), and numbers of bfloat16 lie 2^-8 apart,
        so that rounding would stop it. "adafactor" keeps next to nothing of it.
      weight_decay: of "adamw" and "lion".
      no_decay: parameters whose path matches this expression are not decayed.
      clip_norm: gradients are scaled down to this global norm, over what is trained; None: never.
      layer_decay: learning rates fall by this factor from layer to layer, downwards: with L layers
        stacked the last has the factor layer_decay, the first layer_decay^L, the embeddings
        layer_decay^(L + 1); heads have 1, and so has a tower without a stack of layers (a ResNet,
        or ALBERT, whose layers are one). None: all layers learn alike.
      rate_factors: "EXPRESSION=FACTOR" each, such as "image_tower=0.1": what matches has so many
        times the learning rate. The first that matches counts; `layer_decay` comes on top.
      frozen: what matches one of these expressions is not trained: it stays bitwise as it is, and
        has no optimiser state, decay or average. (Batch statistics are model.batch_norm's.)
      frozen_layers: so many first layers of every stack are frozen, and the embeddings below.
      lora: low-rank adapters.
      ema_decay: evaluation uses an average of the parameters with this decay; None: the
        parameters themselves.
      ema_warmup: the decay is at most (1 + n) / (10 + n) after n updates, so that the average
        leaves the first values behind.
    """

    name: Literal["adam", "adamw", "sgd", "adafactor", "lion"] = "adamw"
    learning_rate: float = limited(5e-5, low=0)
    schedule: Literal["constant", "linear", "cosine", "staircase", "rsqrt"] = "linear"
    warmup_steps: int | None = limited(None, low=0)
    warmup_fraction: float | None = limited(None, low=0, high=1)
    decay_rate: float = limited(0.999, above=0, high=1)
    decay_steps: int | None = limited(None, low=1)
    decay_epochs: float | None = limited(None, above=0)
    decay_examples: int | None = limited(None, low=1)
    end_factor: float = limited(0.0, low=0, high=1)
    b1: float = limited(0.9, low=0, below=1)
    b2: float = limited(0.999, low=0, below=1)
    eps: float = limited(1e-8, above=0)
    bias_correction: bool = True
    mu_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = limited(0.01, low=0)
    no_decay: str = r"(bias|scale)$"
    clip_norm: float | None = limited(1.0, above=0)
    layer_decay: float | None = limited(None, above=0, high=1)
    rate_factors: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    frozen_layers: int = limited(0, low=0)
    lora: LoraOptions = dataclasses.field(default_factory=LoraOptions)
    ema_decay: float | None = limited(None, low=0, high=1)
    ema_warmup: bool = False


def in_steps(options: OptimOptions, *, batch_size: float, examples_per_epoch: int) -> OptimOptions:
    """The options with `decay_steps` in place of epochs or examples.

    Raises:
      UserError: two of them are set.
    """
    sizes = {"batch_size": batch_size, "examples_per_epoch": examples_per_epoch}
    steps = duration(options, "decay", **sizes, path="optim")
    return dataclasses.replace(options, decay_steps=steps, decay_epochs=None, decay_examples=None)


def build_optimizer(
    options: OptimOptions, total_steps: int, params: Any
) -> optax.GradientTransformation:
    """The chain: clip, update rule, decay, factors of single parameters, learning rate.

    Args:
      total_steps: of the run, for schedules that end with it.
      params: what is trained (see `mmjax.optim.trained`), with the names of its axes; only names
        and shapes are read.

    Raises:
      UserError: options that do not fit each other, the run or the parameters.
    """
    parameters = describe(params)
    schedule = build_schedule(options, total_steps)
    rules: list[optax.GradientTransformation] = []
    if options.clip_norm is not None:
        rules.append(optax.clip_by_global_norm(options.clip_norm))
    if options.name != "sgd":
        rules.append(_update_rule(options, parameters))
    if options.name in ("adamw", "lion") and options.weight_decay:
        undecayed = matching(options.no_decay, "optim.no_decay")
        decayed = jax.tree.map(lambda p: not undecayed(p.path), parameters)
        rules.append(optax.add_decayed_weights(options.weight_decay, mask=decayed))
    if options.rate_factors or options.layer_decay is not None:
        factors = rate_factors(options.rate_factors, options.layer_decay, parameters)
        rules.append(
            optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))
        )
    rules.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*rules)


def build_schedule(options: OptimOptions, total_steps: int) -> Callable[[Any], jax.Array]:
    """Learning rate as a function of the number of updates made so far.

    Raises:
      UserError: both warm-ups given, or one that is longer than the run.
      ValueError: a decay in epochs or examples: `in_steps` comes first.
    """
    if options.decay_epochs is not None or options.decay_examples is not None:
        raise ValueError("decay_epochs and decay_examples must be made steps first: see in_steps")
    timescale = options.decay_steps or DECAY_STEPS
    warmup = _warmup_steps(options, total_steps)
    peak, rest, end = options.learning_rate, max(1, total_steps - warmup), options.end_factor

    def schedule(count):
        after = jnp.maximum(count - warmup, 0)
        progress = jnp.clip(after / rest, 0.0, 1.0)
        factor = {
            "constant": lambda: 1.0,
            "linear": lambda: end + (1.0 - end) * (1.0 - progress),
            "cosine": lambda: end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "staircase": lambda: options.decay_rate ** (after // timescale),
            "rsqrt": lambda: jnp.sqrt(timescale / jnp.maximum(count, timescale)),
        }[options.schedule]()
        # The first update already has a rate: (count + 1) / warmup.
        rise = jnp.minimum(1.0, (count + 1) / warmup) if warmup else 1.0
        return jnp.asarray(peak * rise * jnp.maximum(factor, end), jnp.float32)

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


def _update_rule(options: OptimOptions, parameters: Any) -> optax.GradientTransformation:
    b1, b2, eps = options.b1, options.b2, options.eps
    mu_dtype = jnp.bfloat16 if options.mu_dtype == "bfloat16" else None  # None: the parameter's
    if options.name == "adafactor":
        return scale_by_adafactor(parameters)
    if options.name == "lion":
        return optax.scale_by_lion(b1, b2, mu_dtype)
    if options.bias_correction:
        return optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)
    return _adam_without_bias_correction(b1, b2, eps, mu_dtype)


def _adam_without_bias_correction(
    b1: float, b2: float, eps: float, mu_dtype: Any
) -> optax.GradientTransformation:
    """mu / (sqrt(nu) + eps), as BERT's AdamWeightDecayOptimizer; optax always corrects."""

    def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment(grads, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        count = optax.safe_increment(state.count)
        return updates, optax.ScaleByAdamState(count, optax.tree.cast(mu, mu_dtype), nu)

    return optax.GradientTransformation(optax.scale_by_adam(mu_dtype=mu_dtype).init, update)
