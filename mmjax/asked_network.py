"""A network that is asked and not trained: what a finished run left, or pretrained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh

from mmjax import config as config_lib
from mmjax import storage, train_state, trainer
from mmjax.artifacts import artifact_folder, check_artifact, read_artifact
from mmjax.data.sources import Source
from mmjax.data.splits import Split, index_split
from mmjax.errors import UserError
from mmjax.options import DataOptions
from mmjax.programs import config_sections, make_task
from mmjax.task_data import TaskData


@dataclasses.dataclass(frozen=True)
class AskedNetwork:
    """Attributes:
    task: whose predictors it has.
    data: of the run that asks, as the task reads it.
    options: its section "data".
    variables: of the network.
    """

    task: Any
    data: TaskData
    options: DataOptions
    variables: Any
    _splits: dict[str, Split] = dataclasses.field(default_factory=dict, repr=False)

    def split(self, source: Source) -> Split:
        """The examples that the task finds in records."""
        found = self._splits.get(source.fingerprint)
        if found is None:
            found = index_split(self.task, self.options, source)
            self._splits[source.fingerprint] = found
        return found

    def ask(self, predictor: str, source: Source, examples: np.ndarray | None = None) -> Any:
        """Outputs [N, ...] of a predictor for some of these examples, in their order; None: all."""
        split = self.split(source)
        examples = np.arange(len(split.index)) if examples is None else examples
        return self.data.predict(self.variables, split)(predictor, examples)


def open_run(
    place: str,
    key: str,
    task_name: str,
    options: Mapping[str, Any],
    mesh: Mesh,
    task_options: Mapping[str, Any],
) -> AskedNetwork:
    """The network of a finished run.

    Args:
      place: "run://DIR", or the path of an artifact; `key`: the option that names it, for messages.
      task_name: what it must have learned.
      options: the sections "data", "eval" and "loader" of who asks, as dataclasses.
      task_options: of the run's "task", those that say what it is asked about, as values.

    Raises:
      UserError: no finished run, one of another kind, or a damaged one.
    """
    folder = artifact_folder(place)
    config = check_artifact(folder)["config"]
    found = config.get("task_name") if isinstance(config, Mapping) else None
    if found != task_name or config.get("system") != "network":
        raise UserError(
            f"config.{key}={place} has learned the task {found!r}; one of {task_name!r} is needed."
        )
    config = {**config, "task": {**config["task"], **task_options}}
    task = make_task(config, config_lib.build_sections(config, config_sections(config)))
    with storage.local_folder(folder / "preprocessing") as here:
        task.load(here)
    data = TaskData(task, options, mesh, seed=0)
    abstract, _ = _abstract(task, data, mesh)
    variables = read_artifact(folder, trainer.best_tree(abstract)["variables"])
    return AskedNetwork(task, data, options["data"], variables)


def open_weights_of(task: Any, options: Mapping[str, Any], mesh: Mesh) -> AskedNetwork:
    """The network of a task with the pretrained weights that its options name, loaded already."""
    data = TaskData(task, options, mesh, seed=0)
    abstract, init = _abstract(task, data, mesh)
    loaded, _ = task.initial_variables(abstract.base_variables())
    state = train_state.init_state(abstract, init, 0, loaded)
    return AskedNetwork(task, data, options["data"], state.eval_variables())


def _abstract(task: Any, data: TaskData, mesh: Mesh) -> tuple[train_state.TrainState, Any]:
    split = data.any_split()
    shapes = data.eval_loader(split, np.arange(len(split.index)), None).shapes()
    return train_state.abstract_state(task.module(), shapes, optax.identity(), mesh, ema=False)
