"""The query as its own rewrite: what who rewrites nothing reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmjax.baselines.unlearned import UnlearnedSystem
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.evaluators_generation import judged_texts
from mmjax.tasks import task_module
from mmjax.tasks.generation_answers import told, write_told
from mmjax.workdir import WorkDir


class UnchangedSystem(UnlearnedSystem):
    """See `mmjax.systems.System` for the members."""

    nothing_to_choose = "a query that stays as it is has nothing to choose"

    def __init__(self, config: Mapping[str, Any]):
        module = task_module(config["task_name"])
        super().__init__(config, {"task": module.OPTIONS})
        self._task = module.TEXT()

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        data = self._split(split)
        return told(self._task, data, self._queries(data))

    def export(self, workdir: WorkDir) -> list[str]:
        raise UserError("a query that stays as it is needs no weights: nothing can be exported.")

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        write_told(path, self._split(split), answers, self._config["label"])

    def _evaluate(self, split: Split) -> Evaluation:
        index = split.index
        right = [
            self._task.references(split.source[int(record)].turns[int(turn)])
            for record, turn in zip(index.record, index.sub, strict=True)
        ]
        return judged_texts(self._queries(split), right, index.record, index.sub)

    def _queries(self, split: Split) -> list[str]:
        pairs = zip(split.index.record, split.index.sub, strict=True)
        return [split.source[int(record)].turns[int(turn)].text.strip() for record, turn in pairs]
