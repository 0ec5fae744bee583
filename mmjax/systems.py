"""A system is what a config describes: fitted on a dataset, scored, asked for predictions.

A trained network is one kind; BM25 and other methods without gradients are others. Every row of
every table is one command, whichever kind it is.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mmjax import config as config_lib
from mmjax.data.examples import Featurizer
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.workdir import WorkDir

# name -> "module:class", imported when it is asked for.
SYSTEMS = {
    "network": "mmjax.network:NetworkSystem",
    "bm25": "mmjax.baselines.bm25_system:Bm25System",
    "knn": "mmjax.baselines.knn_system:KnnSystem",
    "unchanged": "mmjax.baselines.unchanged_system:UnchangedSystem",
}


@dataclasses.dataclass(frozen=True)
class Judge:
    """A finished run, opened: it scores split after split with one and the same state.

    Attributes:
      task: whose examples they are.
      open: a split by its name.
      evaluate: the scores of a split, which may be of a source that the run does not know.
    """

    task: Featurizer
    open: Callable[[str], Split]
    evaluate: Callable[[Split], Evaluation]


class System(Protocol):
    """What `mmjax.main` drives. Made from a config; every bad key is a UserError by then."""

    def identity(self) -> Mapping[str, Any]:
        """The values that must stay when a run continues."""

    def judging_keys(self) -> set[str]:
        """Those of them that may differ when a finished run is evaluated or asked."""

    def train(self, workdir: WorkDir) -> None:
        """Fits, or continues to fit, and leaves `result.json`."""

    def evaluate(self, workdir: WorkDir, split: str) -> Evaluation:
        """Scores on a split what `train` left."""

    def judge(self, workdir: WorkDir) -> Judge:
        """What `train` left, to be scored on more than one split."""

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        """The answer to every example of a split, as JSON values, with what was chosen on dev."""

    def export(self, workdir: WorkDir) -> list[str]:
        """Writes what `train` left in Hugging Face's layout; the folders. Raises UserError."""

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        """Writes an HTML page of the answers, where there is something to see."""


def make_system(config: Mapping[str, Any]) -> System:
    """The system of a config (plain values, see `mmjax.config.to_dict`)."""
    name = config.get("system")
    if name not in SYSTEMS:
        near = config_lib.suggestion(str(name), SYSTEMS)
        raise UserError(f"config.system={name!r} is no system{near}.")
    module, _, cls = SYSTEMS[name].partition(":")
    return getattr(importlib.import_module(module), cls)(config)
