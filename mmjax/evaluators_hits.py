"""How well responses are told apart: each context's own among those of the split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from mmjax.data.index import ExampleIndex
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.evaluators import Evaluation, Evaluator, Predict
from mmjax.evaluators_generation import judged_texts
from mmjax.metrics.retrieval import (
    RetrievalMetric,
    rank_counts_from_scores,
    ranking_from_embeddings,
    recall_at_k,
)

CHOSEN = ("bleu", "rougeL", "distinct1", "distinct2")

_BLOCK = 256  # contexts whose candidates' vectors are gathered at a time


@dataclasses.dataclass(frozen=True)
class HitsEvaluator(Evaluator):
    """Share, in percent, of contexts whose own response is among the best k: "hits@k".

    Candidates are the distinct responses of the split. Those of "hits@1/POOL" are the own one and
    others of them, which are drawn once for each context, the same ones for every system: the
    figure of ParlAI, whose candidates are the responses of the same batch.

    "bleu@chosen" and the like: of the best of all candidates as a text. The right one is among
    them, so that these figures are no measure for answers that are written.

    Attributes:
      references: (dialogue, sub) -> what people said; the first is the response.
      pool: candidates of the second figure; fewer where there are fewer responses.
      ties: how equal scores count, see `mmjax.metrics.retrieval.recall_at_k`.
      source: the records of the split that is judged.
    """

    references: Callable[[Dialogue, int], Sequence[str]]
    pool: int = 100
    ks: tuple[int, ...] = (1, 5, 10)
    ties: str = "expected"
    source: Source | None = None

    @property
    def metric_names(self) -> Sequence[str]:
        hits = (*(f"hits@{k}" for k in self.ks), f"hits@1/{self.pool}")
        return (*hits, "mrr", "median_rank", *(f"{name}@chosen" for name in CHOSEN))

    def reading(self, source: Source) -> HitsEvaluator:
        return dataclasses.replace(self, source=source)

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Dot products of the predictors "context" and "response"."""
        _, first, gold = np.unique(index.keys["response"], return_index=True, return_inverse=True)
        contexts = predict("context", np.arange(len(index)))
        responses = predict("response", first)
        ranking = ranking_from_embeddings(contexts, responses, gold, 1)
        counts = ranking.counts
        drawn = drawn_candidates(gold, len(first), self.pool)
        among = rank_counts_from_scores(*_scores(contexts, responses, drawn))
        metric = RetrievalMetric(self.ks, self.ties)
        whole = metric.compute(metric.update(metric.init(), counts, {}))
        hits = {f"hits@{k}": 100 * recall_at_k(counts, k, self.ties) for k in self.ks}
        hits[f"hits@1/{self.pool}"] = 100 * recall_at_k(among, 1, self.ties)
        chance = {f"hits@{k}": 100 * min(1, k / len(first)) for k in self.ks}
        chance[f"hits@1/{self.pool}"] = 100 / drawn.shape[1]
        texts = self._judged(index, first[ranking.top[:, 0]])
        return Evaluation(
            metrics={
                **{name: float(values.mean()) for name, values in hits.items()},
                "mrr": whole["mrr"],
                "median_rank": whole["median_rank"],
                **{f"{name}@chosen": texts.metrics[name] for name in CHOSEN},
            },
            samples={
                **hits,
                **{f"{n}@chosen": texts.samples[n] for n in CHOSEN if n in texts.samples},
            },
            per_example={**counts._asdict(), "dialogue": index.record},
            groups=index.record,
            chance=chance,
        )

    def _judged(self, index: ExampleIndex, chosen: Int[np.ndarray, " N"]) -> Evaluation:
        """The texts of the examples `chosen` against people's."""
        if self.source is None:
            raise ValueError("the evaluator has no records to read responses from")
        right = [
            self.references(self.source[int(i)], int(sub))
            for i, sub in zip(index.record, index.sub, strict=True)
        ]
        return judged_texts([right[k][0] for k in chosen], right, index.record, index.sub)


def drawn_candidates(gold: Int[np.ndarray, " N"], count: int, size: int) -> np.ndarray:
    """Numbers below `count`, int64 [N, min(size, count)]: `gold` first, then others, each once."""
    rng = np.random.default_rng(0)
    others = min(size, count) - 1
    found = np.empty((len(gold), 1 + others), np.int64)
    for row, own in zip(found, gold, strict=True):
        some = rng.choice(count - 1, others, replace=False, shuffle=False)
        row[0], row[1:] = own, some + (some >= own)
    return found


def _scores(
    contexts: Float[np.ndarray, "N D"],
    responses: Float[np.ndarray, "U D"],
    drawn: Int[np.ndarray, "N P"],
) -> tuple[np.ndarray, np.ndarray]:
    """[N, P], and where among them the own one is: the first."""
    scores = [
        np.einsum("nd,npd->np", contexts[start : start + _BLOCK], responses[some])
        for start in range(0, len(drawn), _BLOCK)
        for some in [drawn[start : start + _BLOCK]]
    ]
    return np.concatenate(scores), np.zeros(len(drawn), np.int64)
