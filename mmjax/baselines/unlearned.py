"""What systems that learn nothing have in common: their run is to be judged."""

from __future__ import annotations

import abc
import contextlib
import functools
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from mmjax import config as config_lib
from mmjax.data.examples import Featurizer
from mmjax.data.sources import Source
from mmjax.data.splits import Split, index_split, open_source
from mmjax.evaluators import Evaluation
from mmjax.options import DataOptions, EvalOptions
from mmjax.parallel import distributed
from mmjax.systems import Judge
from mmjax.workdir import WorkDir


class UnlearnedSystem(abc.ABC):
    """See `mmjax.systems.System` for the members.

    Attributes:
      nothing_to_choose: why the test split may be looked at with no choice made on dev.
      reads_train: whether its answers come from the training split.
    """

    nothing_to_choose: ClassVar[str]
    _task: Featurizer  # what makes its examples
    reads_train: ClassVar[bool] = False

    def __init__(self, config: Mapping[str, Any], sections: Mapping[str, Any]):
        """
        Args:
          sections: those of the config that the system reads beside "data" and "eval".
        """
        self._config = config
        self._sections = {"data": DataOptions, "eval": EvalOptions, **sections}
        self._options = config_lib.build_sections(config, self._sections)

    @abc.abstractmethod
    def _evaluate(self, split: Split) -> Evaluation:
        """What its answers to a split are worth."""

    def _source(self, name: str) -> Source:
        """The records of a split."""
        if name not in self._sources:
            data, task = self._options["data"], self._task
            self._sources[name] = open_source(data, name, photos=task.photos, boxes=task.boxes)
        return self._sources[name]

    @functools.cached_property
    def _sources(self) -> dict[str, Source]:
        return {}

    def _split(self, name: str) -> Split:
        """A split by its name."""
        return index_split(self._task, self._options["data"], self._source(name))

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        """The devices that compute with arrays cut over them, where there is any use for them."""
        return contextlib.nullcontext()

    def _parents(self) -> list[dict[str, Any]]:
        """What it uses that others have learned."""
        return []

    def identity(self) -> Mapping[str, Any]:
        return config_lib.identity(self._config, self._sections)

    def judging_keys(self) -> set[str]:
        return config_lib.judging_keys(self._sections)

    def train(self, workdir: WorkDir) -> None:
        began = time.perf_counter()
        names = ["dev", "test"] if self._options["eval"].test else ["dev"]
        splits, evaluations = {}, {}
        with self._on_mesh():
            for name in names:  # one that is missing is told before the work
                self._source(name)
            for name in names:
                if name == "test" and distributed.is_main():
                    workdir.look_at_test(self.nothing_to_choose)
                splits[name] = self._split(name)
                evaluations[name] = self._evaluate(splits[name])
        if not distributed.is_main():
            return
        described = {"train": self._split("train")} if self.reads_train else {}
        described |= splits
        source = next(iter(described.values())).source
        workdir.write_result(
            config=self._config,
            dataset={
                "name": source.name.rpartition(":")[0],
                "fingerprint": source.fingerprint,
                "sizes": {name: len(split.index) for name, split in described.items()},
            },
            evaluations=evaluations,
            ids={name: split.ids() for name, split in splits.items()},
            steps=0,
            seconds=time.perf_counter() - began,
            parents=self._parents(),
        )

    def evaluate(self, workdir: WorkDir, split: str) -> Evaluation:
        judge = self.judge(workdir)
        return judge.evaluate(judge.open(split))

    def judge(self, workdir: WorkDir) -> Judge:
        def opened(name: str) -> Split:
            with self._on_mesh():
                return self._split(name)

        def evaluate(split: Split) -> Evaluation:
            with self._on_mesh():
                return self._evaluate(split)

        return Judge(self._task, opened, evaluate)
