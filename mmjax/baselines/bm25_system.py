"""BM25 as a system: the same command, dataset, pool and metrics as a trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mmjax.baselines.unlearned import UnlearnedSystem
from mmjax.config import limited
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.metrics.retrieval import ranking_from_scores
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


class Bm25System(UnlearnedSystem):
    """Nothing is learned: the documents are the candidates' texts of the split itself."""

    nothing_to_choose = "BM25 has nothing to choose"

    def __init__(self, config: Mapping[str, Any]):
        module = task_module(config["task_name"])
        super().__init__(config, {"task": module.OPTIONS, "bm25": Bm25Options})
        self._task = module.TEXT(self._options["task"])

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        def answer(part: Split, numbers: np.ndarray) -> list[dict[str, Any]]:
            pool = self._task.pool(part)
            scores = self._scores(part)[:, pool.content_of]
            return self._task.told(part, ranking_from_scores(scores, pool.gold, top))

        return self._task.in_rounds(self._split(split), answer)

    def export(self, workdir: WorkDir) -> list[str]:
        raise UserError("BM25 has no weights: there is nothing to export.")

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        self._task.page(path, self._split(split), answers, self._config["label"])

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
