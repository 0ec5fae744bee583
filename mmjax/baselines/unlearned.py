"""What systems that learn nothing have in common: their run is to be judged."""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from mmjax import config as config_lib
from mmjax.config import DataOptions, EvalOptions
from mmjax.data.splits import Split, open_split
from mmjax.evaluators import Evaluation
from mmjax.parallel import distributed
from mmjax.systems import Judge
from mmjax.workdir import WorkDir


class UnlearnedSystem(abc.ABC):
    """See `mmjax.systems.System` for the members.

    Attributes:
      nothing_to_choose: why the test split may be looked at with no choice made on dev.
    """

    nothing_to_choose: ClassVar[str]

    def __init__(self, config: Mapping[str, Any], sections: Mapping[str, Any], text: Any):
        """
        Args:
          sections: those of the config that the system reads beside "data" and "eval".
          text: options of the task -> what makes its examples.
        """
        self._config = config
        self._sections = {"data": DataOptions, "eval": EvalOptions, **sections}
        self._options = config_lib.build_sections(config, self._sections)
        self._task = text(self._options["task"])

    @abc.abstractmethod
    def _evaluate(self, split: Split) -> Evaluation:
        """What its answers to a split are worth."""

    def identity(self) -> Mapping[str, Any]:
        return config_lib.identity(self._config, self._sections)

    def judging_keys(self) -> set[str]:
        return config_lib.judging_keys(self._sections)

    def train(self, workdir: WorkDir) -> None:
        began = time.perf_counter()
        names = ["dev", "test"] if self._options["eval"].test else ["dev"]
        splits, evaluations = {}, {}
        for name in names:
            if name == "test" and distributed.is_main():
                workdir.look_at_test(self.nothing_to_choose)
            splits[name] = self._split(name)
            evaluations[name] = self._evaluate(splits[name])
        if not distributed.is_main():
            return
        source = splits["dev"].source
        workdir.write_result(
            config=self._config,
            dataset={
                "name": source.name.rpartition(":")[0],
                "fingerprint": source.fingerprint,
                "sizes": {name: len(split.index) for name, split in splits.items()},
            },
            evaluations=evaluations,
            ids={name: split.ids() for name, split in splits.items()},
            steps=0,
            seconds=time.perf_counter() - began,
            parents=[],
        )

    def evaluate(self, workdir: WorkDir, split: str) -> Evaluation:
        return self._evaluate(self._split(split))

    def judge(self, workdir: WorkDir) -> Judge:
        return Judge(self._task, self._split, self._evaluate)

    def _split(self, name: str) -> Split:
        return open_split(self._task, self._options["data"], name)
