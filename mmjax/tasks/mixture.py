"""Several tasks that one network learns at once.

An example says itself of which task it is: what is read ends with a mark, of who speaks before a
response and of rewrites before a rewrite (`mmjax.tasks.generation_examples`). So the parts of a
mixture have a network, its vocabulary, its loss and the features of their examples in common;
datasets, examples and evaluation are each part's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from mmjax.config import judging, limited, operational
from mmjax.data.featurize import Ragged
from mmjax.data.packing import Packing
from mmjax.data.sources import Source
from mmjax.errors import UserError
from mmjax.evaluators import of_part, part_of
from mmjax.losses.objective import Objective
from mmjax.pretrained.exported import ModelFolder
from mmjax.tasks.base import Predictor, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """What one task brings to a mixture.

    Attributes:
      dataset, manual_dir: see `mmjax.options.DataOptions`.
      weight: how many of its examples are learned for so many of the others', as their weights say.
      metric: the figure on dev by which its own best state is kept, and whose mean over the tasks
        is "mean".
      higher_is_better: direction of `metric`.
    """

    dataset: str
    manual_dir: str | None = operational(None)
    weight: float = limited(1.0, above=0)
    metric: str = "bleu"
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """Options of a mixture, beside a `ShareOptions` of each task under its name.

    Attributes:
      best_of: the task whose own best state is judged, asked and exported; None: the best by
        `config.eval.metric`.
    """

    best_of: str | None = judging(None)


class Mixture(Task):
    """See `mmjax.tasks.base.Task` for the members.

    What all have in common is the first part's; where parts differ in how long rows may be, the
    most room that any needs.
    """

    key_names: Sequence[str] = ()

    def __init__(self, parts: Mapping[str, Task]):
        """
        Args:
          parts: name of a task -> the task. Each would make the same network and the same features,
            and its examples have no keys.
        """
        self._parts = dict(parts)
        self._first = next(iter(parts.values()))

    @property
    def parts(self) -> Mapping[str, Task]:
        return self._parts

    # Data

    @property
    def photos(self) -> bool:
        return any(part.photos for part in self._parts.values())

    @property
    def boxes(self) -> bool:
        return any(part.boxes for part in self._parts.values())

    @property
    def packs(self) -> bool:
        return all(part.packs for part in self._parts.values())

    @property
    def independent(self) -> bool:
        return self._first.independent

    @property
    def cached(self) -> Collection[str]:
        return self._first.cached

    @property
    def identity(self) -> Mapping[str, Any]:
        return {name: dict(part.identity) for name, part in self._parts.items()}

    @property
    def runs(self) -> Mapping[str, str]:
        return self._of_parts(lambda part: part.runs)

    def fit(self, source: Source, folder: epath.PathLike) -> None:
        """One vocabulary; `source`: the training dialogues of all parts."""
        self._first.fit(source, folder)
        self.load(folder)

    def load(self, folder: epath.PathLike) -> None:
        for name, part in self._parts.items():
            with keys_of(name):
                part.load(folder)

    def check_vocabulary(self, folder: epath.PathLike) -> None:
        self._first.check_vocabulary(folder)

    @property
    def ragged(self) -> Mapping[str, Ragged]:
        found = [part.ragged for part in self._parts.values()]
        return {name: max((of[name] for of in found), key=_longest) for name in found[0]}

    def packing(self, row_length: int) -> Packing:
        found = [part.packing(row_length) for part in self._parts.values()]
        limits = {name: max(of.limits[name] for of in found) for name in found[0].limits}
        return dataclasses.replace(found[0], limits=limits)

    # Learning

    def module(self) -> Any:
        """Raises UserError where one of the parts does not go with the network."""
        for name, part in self._parts.items():
            with keys_of(name):
                if part.module() != self._first.module():
                    raise ValueError(f"{name!r} would have another network than the first task")
        return self._first.module()

    def objective(self) -> Objective:
        return self._first.objective()

    def predictors(self) -> Mapping[str, Predictor]:
        return self._of_parts(lambda part: part.predictors())

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        return self._first.initial_variables(target)

    def check_batch(self, size: int) -> None:
        for part in self._parts.values():
            part.check_batch(size)

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        """A folder of each part: how long it reads and writes is its own."""
        return [
            dataclasses.replace(model, name=f"{name}-{model.name}")
            for name, part in self._parts.items()
            for model in part.exports(variables, part_of(name, chosen))
        ]

    def _of_parts(self, of: Any) -> dict[str, Any]:
        return {
            of_part(name, key): value
            for name, part in self._parts.items()
            for key, value in of(part).items()
        }


@contextlib.contextmanager
def keys_of(part: str) -> Iterator[None]:
    """Names in a UserError the keys that a mixture has where a run of one task has others; of the
    only part of a task, "", they are the same."""
    try:
        yield
    except UserError as error:
        if not part:
            raise
        text = re.sub(r"config\.task\b", f"config.task.{part}", str(error))
        for key in ("dataset", "manual_dir"):
            text = text.replace(f"config.data.{key}", f"config.mixture.{part}.{key}")
        raise UserError(text) from error


def _longest(ragged: Ragged) -> int:
    return ragged.buckets[-1]
