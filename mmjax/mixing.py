"""How the parts of a mixture go through one run: datasets and weights, judged together.

A task that is no mixture has one part, "", and everything here leaves it as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmjax.config import suggestion
from mmjax.data.plan import SMALLEST_SHARE
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation, of_part
from mmjax.options import DataOptions
from mmjax.tasks.base import Task
from mmjax.tasks.mixture import ShareOptions

# The mean over all tasks of the metric that `ShareOptions` names for each.
MEAN = "mean"


def shares(options: Mapping[str, Any]) -> dict[str, ShareOptions]:
    """What each part brings; empty where the config is of no mixture.

    Args:
      options: sections of the config as dataclasses.
    """
    section = options.get("mixture")
    fields = () if section is None else dataclasses.fields(section)
    found = {field.name: getattr(section, field.name) for field in fields}
    return {name: share for name, share in found.items() if isinstance(share, ShareOptions)}


def data_options(options: Mapping[str, Any], part: str) -> DataOptions:
    """The section "data" as one part reads it."""
    if not (found := shares(options)):
        return options["data"]
    share, common = found[part], options["data"]
    kept = {field.name: getattr(common, field.name) for field in dataclasses.fields(common)}
    return DataOptions(dataset=share.dataset, manual_dir=share.manual_dir, **kept)


def weights(options: Mapping[str, Any], parts: Iterable[str]) -> list[float] | None:
    """Of the parts in the stream of training examples, in their order; None where there is one."""
    found = shares(options)
    return [found[name].weight for name in parts] if found else None


def own_metrics(options: Mapping[str, Any]) -> dict[str, bool]:
    """Metric by which a part's own best state is kept -> whether higher is better."""
    return {
        of_part(name, share.metric): share.higher_is_better
        for name, share in shares(options).items()
    }


def best_of(options: Mapping[str, Any]) -> str | None:
    """The metric of the part whose best state is asked for; None: the best by eval.metric."""
    name = getattr(options.get("mixture"), "best_of", None)
    return None if name is None else of_part(name, shares(options)[name].metric)


def metric_names(task: Task, options: Mapping[str, Any]) -> list[str]:
    """Of an evaluation of all parts."""
    names = [
        of_part(name, metric)
        for name, part in task.parts.items()
        for metric in part.evaluator().metric_names
    ]
    return [MEAN, *names] if shares(options) else names


def check_mixture(task: Task, options: Mapping[str, Any]) -> None:
    """What would be noticed late.

    Raises:
      UserError: a weight that is next to nothing, a metric or a task that there is not, or a mean
        of metrics of which some should be high and others low.
    """
    found, judged = shares(options), options["eval"]
    total = sum(share.weight for share in found.values())
    for name, share in found.items():
        if share.weight < SMALLEST_SHARE * total:
            raise UserError(
                f"config.mixture.{name}.weight={share.weight:g} is less than "
                f"1/{1 / SMALLEST_SHARE:.0f} of all weights: raise it, or train the other tasks "
                "without this one."
            )
        known = task.parts[name].evaluator().metric_names
        if share.metric not in known:
            raise UserError(
                f"config.mixture.{name}.metric={share.metric!r} is no metric"
                f"{suggestion(share.metric, known)}."
            )
        if judged.metric == MEAN and share.higher_is_better != judged.higher_is_better:
            raise UserError(
                f"config.eval.metric={MEAN!r} takes the mean of metrics of one direction, but "
                f"config.mixture.{name}.higher_is_better={share.higher_is_better} and "
                f"config.eval.higher_is_better={judged.higher_is_better}: choose the metric of one "
                f"task, such as {of_part(name, share.metric)}."
            )
    asked = getattr(options.get("mixture"), "best_of", None)
    if asked is not None and asked not in found:
        raise UserError(
            f"config.mixture.best_of={asked!r} is no task of the mixture{suggestion(asked, found)}."
        )


def joined(found: Mapping[str, Evaluation], options: Mapping[str, Any]) -> Evaluation:
    """The evaluations of all parts as one; their metrics are named "rewrite/exact"."""
    if not (brought := shares(options)):
        (only,) = found.values()
        return only
    chief = [found[name].metrics[share.metric] for name, share in brought.items()]
    metrics = {
        of_part(name, metric): value
        for name, evaluation in found.items()
        for metric, value in evaluation.metrics.items()
    }
    return Evaluation({MEAN: float(np.mean(chief)), **metrics}, {}, {}, parts=found)
