"""The best state of a run, for whoever judges, asks or exports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from mmjax import mixing, train_state, trainer
from mmjax.artifacts import check_artifact, read_artifact
from mmjax.checkpoint.store import CheckpointStore
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import of_part
from mmjax.task_data import TaskData
from mmjax.tasks.base import Task
from mmjax.workdir import WorkDir


def best_state(
    workdir: WorkDir,
    task: Task,
    parts: Mapping[str, TaskData],
    options: Mapping[str, Any],
    mesh: Mesh,
    step: int | None = None,
    like: Split | None = None,
) -> tuple[Any, dict[str, float]]:
    """What the best checkpoint evaluates with, and what was chosen for it on dev.

    Args:
      parts: what each part of the task reads.
      step: of the best checkpoint; None: what the latest checkpoint names, or the artifact where
        that is all there is.
      like: of the first part, whose first example tells the shapes of a batch; None: dev.

    Raises:
      UserError: there is none, or not the one that is asked for.
    """
    first = next(iter(parts.values()))
    split = first.split("dev") if like is None else like
    loader = first.eval_loader(split, np.arange(len(split.index)), None)
    abstract, _ = train_state.abstract_state(
        task.module(), loader.shapes(), optax.identity(), mesh, ema=False
    )
    target = trainer.best_tree(abstract)["variables"]
    if step is None and not (workdir.path / "checkpoints").exists():
        return _of_artifact(workdir.path / "artifact", options, target)
    step = best_step(workdir, options) if step is None else step
    tree, metrics = CheckpointStore(workdir.path / "best").restore(step, {"variables": target})
    chosen = [of_part(n, name) for n, own in parts.items() for name in own.task.evaluator().chosen]
    return tree["variables"], {name: metrics[name] for name in chosen}


def best_step(
    workdir: WorkDir, options: Mapping[str, Any], loop: trainer.LoopState | None = None
) -> int:
    """Of the best state that is asked for.

    Args:
      loop: of the run; None: of its latest checkpoint.

    Raises:
      UserError: no state has been evaluated.
    """
    if loop is None:
        checkpoints = CheckpointStore(workdir.path / "checkpoints")
        latest = checkpoints.latest()
        loop = trainer.LoopState(**({} if latest is None else checkpoints.host(latest)))
    metric = mixing.best_of(options)
    step = loop.best_step if metric is None else loop.own_best.get(metric, (None, None))[0]
    if step is None:
        raise UserError(
            f"{workdir.path} holds no checkpoint with an evaluated state: let --mode=train "
            "reach its first evaluation."
        )
    return step


def _of_artifact(
    artifact: epath.Path, options: Mapping[str, Any], target: Any
) -> tuple[Any, dict[str, float]]:
    about = check_artifact(artifact)
    kept = about["config"].get("mixture", {}).get("best_of")
    if (asked := getattr(options.get("mixture"), "best_of", None)) != kept:
        raise UserError(
            f"{artifact} has one state, and config.mixture.best_of={asked!r} asks for another than "
            "its own: that needs the checkpoints of the run."
        )
    return read_artifact(artifact, target), about.get("chosen", {})
