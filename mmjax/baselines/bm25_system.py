"""BM25 as a system: the same command, dataset, pool and metrics as a trained network."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mmjax import config as config_lib
from mmjax.config import DataOptions, EvalOptions, limited
from mmjax.data.splits import Split, open_split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.metrics.retrieval import ranking_from_scores
from mmjax.parallel import distributed
from mmjax.systems import Judge
from mmjax.tasks import task_module
from mmjax.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class Bm25Options:
    """Attributes:
    variant: form of the inverse document frequency, as the bm25s library names it.
    k1, b: saturation of the term frequency, and of the document's length.
    """

    variant: Literal["lucene", "robertson", "atire", "bm25+", "bm25l"] = "lucene"
    k1: float = limited(1.5, low=0)
    b: float = limited(0.75, low=0, high=1)


class Bm25System:
    """Nothing is learned: the documents are the candidates' texts of the split itself."""

    def __init__(self, config: Mapping[str, Any]):
        module = task_module(config["task_name"])
        self._config = config
        self._sections = {
            "data": DataOptions,
            "eval": EvalOptions,
            "task": module.OPTIONS,
            "bm25": Bm25Options,
        }
        self._options = config_lib.build_sections(config, self._sections)
        self._task = module.TEXT(self._options["task"])

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
                workdir.look_at_test("BM25 has nothing to choose")
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

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        data = self._split(split)
        pool = self._task.pool(data)
        scores = self._scores(data)[:, pool.content_of]
        return self._task.told(data, ranking_from_scores(scores, pool.gold, top))

    def export(self, workdir: WorkDir) -> list[str]:
        raise UserError("BM25 has no weights: there is nothing to export.")

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        self._task.page(path, self._split(split), answers, self._config["label"])

    def _split(self, name: str) -> Split:
        return open_split(self._task, self._options["data"], name)

    def _evaluate(self, split: Split) -> Evaluation:
        return self._task.evaluator().evaluate_scores(split.index, self._scores(split))

    def _scores(self, split: Split) -> np.ndarray:
        """[N, U]: every example against every distinct content.

        The collection is all candidates, so a text that several share counts as often in the
        document frequencies.
        """
        # bm25s computes with JAX when it is imported, which would come before the processes are
        # connected if a config file did it.
        from mmjax.baselines.bm25 import Bm25

        pool, index, options = self._task.pool(split), split.index, self._options["bm25"]

        def text(kind: Any, example: int) -> str:
            return kind(split.source[int(index.record[example])], int(index.sub[example]))

        documents = [text(self._task.labels, i) for i in pool.example_of]
        queries = [text(self._task.query, i) for i in range(len(index))]
        bm25 = Bm25(variant=options.variant, k1=options.k1, b=options.b).fit(documents)
        scores = bm25.scores(queries)  # [N, P]
        first = np.unique(pool.content_of, return_index=True)[1]
        return scores[:, first]
