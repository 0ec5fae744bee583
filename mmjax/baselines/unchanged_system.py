"""The query as its own rewrite: what who rewrites nothing reaches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mmjax import config as config_lib
from mmjax.config import DataOptions, EvalOptions
from mmjax.data.splits import Split, open_split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.evaluators_generation import judged_texts
from mmjax.parallel import distributed
from mmjax.systems import Judge
from mmjax.tasks import task_module
from mmjax.tasks.generation_answers import told, write_told
from mmjax.workdir import WorkDir


class UnchangedSystem:
    """See `mmjax.systems.System` for the members."""

    def __init__(self, config: Mapping[str, Any]):
        module = task_module(config["task_name"])
        self._config = config
        self._sections = {"data": DataOptions, "eval": EvalOptions, "task": module.OPTIONS}
        self._options = config_lib.build_sections(config, self._sections)
        self._text = module.TEXT()

    def identity(self) -> Mapping[str, Any]:
        return config_lib.identity(self._config, self._sections)

    def judging_keys(self) -> set[str]:
        return config_lib.judging_keys(self._sections)

    def train(self, workdir: WorkDir) -> None:
        began = time.perf_counter()
        names = ["dev", "test"] if self._options["eval"].test else ["dev"]
        splits = {name: self._split(name) for name in names}
        evaluations = {name: self._evaluate(split) for name, split in splits.items()}
        if not distributed.is_main():
            return
        if "test" in names:
            workdir.look_at_test("a query that stays as it is has nothing to choose")
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
        return Judge(self._text, self._split, self._evaluate)

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        data = self._split(split)
        return told(self._text, data, self._queries(data))

    def export(self, workdir: WorkDir) -> list[str]:
        raise UserError("a query that stays as it is needs no weights: nothing can be exported.")

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        write_told(path, self._split(split), answers, self._config["label"])

    def _split(self, name: str) -> Split:
        return open_split(self._text, self._options["data"], name)

    def _evaluate(self, split: Split) -> Evaluation:
        index = split.index
        right = [
            self._text.references(split.source[int(record)].turns[int(turn)])
            for record, turn in zip(index.record, index.sub, strict=True)
        ]
        return judged_texts(self._queries(split), right, index.record, index.sub)

    def _queries(self, split: Split) -> list[str]:
        pairs = zip(split.index.record, split.index.sub, strict=True)
        return [split.source[int(record)].turns[int(turn)].text.strip() for record, turn in pairs]
