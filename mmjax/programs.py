"""What a network's run computes, known before there are data: options, schedule, training step.

Nothing here needs a device that is there: the same functions make a run's step and the one that
`--mode=check` compiles for a slice that is not at hand.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from mmjax import config as config_lib
from mmjax import train_state, trainer
from mmjax.data.loader import check_divides
from mmjax.errors import UserError
from mmjax.mixing import check_mixture, metric_names
from mmjax.optim.build import OptimOptions, build_optimizer, build_schedule, in_steps
from mmjax.optim.trained import make_split
from mmjax.options import LOOP_SECTIONS, TrainOptions
from mmjax.steps import TrainStep, make_train_step
from mmjax.tasks import task_module


@dataclasses.dataclass(frozen=True)
class Training:
    """Attributes:
    module: the model.
    abstract: shapes, types and shardings of the state.
    init: the function that makes it, see `mmjax.train_state.abstract_state`.
    step: jitted, compiled when it is first called, or lowered.
    """

    module: Any
    abstract: train_state.TrainState
    init: Any
    step: TrainStep


def config_sections(config: Mapping[str, Any]) -> dict[str, type]:
    """The options of each section of a network's config."""
    module = task_module(config["task_name"])
    return {
        **LOOP_SECTIONS,
        "task": module.OPTIONS,
        "model": module.MODEL_OPTIONS,
        "optim": OptimOptions,
        **getattr(module, "SECTIONS", {}),
    }


def make_task(config: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The task of a config; `options`: its sections as dataclasses."""
    return task_module(config["task_name"]).TASK(options["task"], options["model"])


def check_options(task: Any, options: Mapping[str, Any], mesh: Mesh) -> None:
    """What would otherwise be noticed at the first step or evaluation, after a long start.

    Raises:
      UserError: as `check_mixture`, a metric that there is not, a batch that does not divide, or
        examples that cannot share rows.
    """
    check_mixture(task, options)
    judged, names = options["eval"], metric_names(task, options)
    if judged.metric not in names:
        near = config_lib.suggestion(judged.metric, names)
        raise UserError(f"config.eval.metric={judged.metric!r} is no metric{near}.")
    check_divides(mesh, judged.batch_size)
    task.check_batch(options["train"].global_batch_size)
    _check_micro_batch(task, options["train"], mesh)
    _check_packing(task, options["train"])


def run_schedule(
    options: Mapping[str, Any], examples: int, per_step: float | None = None
) -> trainer.Schedule:
    """When things happen in a run.

    Args:
      examples: of an epoch.
      per_step: examples of a step, on average; None: `global_batch_size`.
    """
    in_steps = functools.partial(
        config_lib.duration,
        batch_size=per_step or options["train"].global_batch_size,
        examples_per_epoch=examples,
    )
    total = in_steps(options["train"], "total", path="train")
    if total is None:
        raise UserError(
            "the length of the run is not set: give config.train.total_epochs, "
            "config.train.total_steps or config.train.total_examples."
        )
    eval_every = in_steps(options["eval"], "every", path="eval")
    checkpoint_every = in_steps(options["checkpoint"], "every", path="checkpoint")
    return trainer.Schedule(
        total=total,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every or eval_every or total,
        log_every=max(1, options["observe"].log_every_steps),
        patience=options["eval"].patience,
        max_skipped=options["train"].max_skipped_steps,
        eval_first=options["eval"].first,
        keep=max(1, options["checkpoint"].keep),
    )


def make_training(
    task: Any,
    options: Mapping[str, Any],
    shapes: Any,
    mesh: Mesh,
    *,
    steps: int,
    examples: int,
    per_step: float | None = None,
) -> Training:
    """The state and the step of a run.

    Args:
      shapes: a global batch as ShapeDtypeStructs.
      steps: of the whole run; examples: of an epoch; per_step: see `run_schedule`.
    """
    module = task.module()
    train = options["train"]
    optim = in_steps(
        options["optim"],
        batch_size=per_step or train.global_batch_size,
        examples_per_epoch=examples,
    )
    split = make_split(optim.frozen, optim.frozen_layers, optim.lora)
    tx = build_optimizer(optim, steps, train_state.abstract_params(module, shapes, split))
    abstract, init = train_state.abstract_state(
        module, shapes, tx, mesh, ema=optim.ema_decay is not None, split=split
    )
    step = make_train_step(
        module,
        task.objective(),
        tx,
        abstract,
        micro_batch_size=train.micro_batch_size,
        ema_decay=optim.ema_decay,
        ema_warmup=optim.ema_warmup,
        schedule=build_schedule(optim, steps),
    )
    return Training(module, abstract, init, step)


def _check_micro_batch(task: Any, train: TrainOptions, mesh: Mesh) -> None:
    if (size := train.micro_batch_size) is None:
        return
    check_divides(mesh, size)
    if train.global_batch_size % size:
        raise UserError(
            f"config.train.global_batch_size={train.global_batch_size} is no multiple of "
            f"config.train.micro_batch_size={size}."
        )
    if not task.independent:
        raise UserError(
            "config.train.micro_batch_size needs a model in which examples do not act on each "
            "other: batch statistics would be those of a part. Set "
            "config.model.batch_norm=frozen, or leave micro_batch_size out."
        )


def _check_packing(task: Any, train: TrainOptions) -> None:
    if train.packed_length is None:
        return
    if not task.packs:
        raise UserError(
            f"config.train.packed_length={train.packed_length}: the examples of this task, or of "
            "this model, cannot share a row. Leave it out; config.train.length_window saves "
            "padding too."
        )
    if train.length_window > 1:
        raise UserError(
            f"config.train.length_window={train.length_window} puts examples of like lengths into "
            f"a batch, and config.train.packed_length={train.packed_length} makes rows of one "
            "length: set config.train.length_window=1, or leave packed_length out."
        )
