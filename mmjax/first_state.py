"""What a run begins with: weights of a folder or of another run, and fresh ones for the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax

from mmjax import train_state
from mmjax.artifacts import read_fitting
from mmjax.errors import UserError
from mmjax.tasks.base import Task

logger = logging.getLogger(__name__)


def first_state(
    task: Task, options: Mapping[str, Any], abstract: train_state.TrainState, init: Any, seed: int
) -> train_state.TrainState:
    """The state before the first step.

    Args:
      options: the sections "train" and "model" of the config, as dataclasses.
      abstract, init: of `train_state.abstract_state`.

    Raises:
      UserError: weights do not fit, or what the run keeps as it begins came from nowhere.
    """
    target = abstract.base_variables()
    loaded, reports = task.initial_variables(target)
    for name, report in reports.items():
        logger.info("pretrained weights of %s:\n%s", name, report)
    if (place := options["train"].init_from) is not None:
        taken, report = read_fitting(place, target)
        logger.info("weights of %s:\n%s", place, report)
        loaded = jax.tree.map(
            lambda new, old: old if new is None else new, taken, loaded, is_leaf=_is_none
        )
        check_kept(place, loaded, abstract, options["model"])
    return train_state.init_state(abstract, init, seed, loaded)


def check_kept(place: str, loaded: Any, abstract: train_state.TrainState, model: Any) -> None:
    """Raises UserError where something stays random: it is in no weights, and is not learned.

    Args:
      place: the run whose weights are taken over.
      loaded: a tree like `abstract.base_variables()`, None where there is nothing to load.
      model: the section of the config; an image tower whose `batch_norm` is "frozen" keeps its
        running statistics.
    """
    missing = []
    if abstract.frozen is not None:
        found = jax.tree.map(
            lambda value, kept: value is None and kept is not None,
            loaded["params"],
            abstract.frozen,
            is_leaf=_is_none,
        )
        missing += _true(found)
    if getattr(model, "batch_norm", None) == "frozen":
        statistics = {name: tree for name, tree in loaded.items() if name != "params"}
        found = jax.tree.map(lambda value: value is None, statistics, is_leaf=_is_none)
        missing += [path for path in _true(found) if "image_tower" in path.split("/")]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{place} has no {missing[0]}{more} for this network, and what is kept as it begins "
            "(config.optim.frozen, config.model.batch_norm=frozen) would stay random: name weights "
            "for it (config.model.image_weights), start from a run that has it, or let it be "
            "learned (config.optim.frozen=(), config.model.batch_norm=global)."
        )


def _true(tree: Any) -> list[str]:
    """The paths of what is true."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if leaf]


def _is_none(x: Any) -> bool:
    return x is None
