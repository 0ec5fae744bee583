"""What stands in the tables of each task: which figures, and how two runs are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.metrics.bleu import bleu_sample
from mmjax.metrics.bootstrap import Sample
from mmjax.metrics.classification import f1_parts
from mmjax.metrics.retrieval import RankCounts, RetrievalMetric

# (values, weights, groups), see `mmjax.metrics.bootstrap.bootstrap_interval`.
Parts = tuple[Sample, np.ndarray | None, np.ndarray | None]


@dataclass(frozen=True)
class Figures:
    """Attributes:
    columns: heading -> name of the metric.
    chief: heading of the one that rows are sorted and compared by.
    per_example: names of the columns, beside "ids", of the figures per example -> kinds.
    parts: from these columns, what the chief figure is computed from.
    bounded: headings of those that stand with their interval, beside the chief one's column.
    decimals: of all figures.
    """

    columns: Mapping[str, str]
    chief: str
    per_example: Mapping[str, type | tuple[type, ...]]
    parts: Callable[[Mapping[str, Sequence[Any]]], Parts]
    bounded: tuple[str, ...] = ()
    decimals: int = 1

    @property
    def chief_metric(self) -> str:
        return self.columns[self.chief]


def _recall_sums(rows: Mapping[str, Sequence[Any]]) -> Parts:
    counts = RankCounts(*(np.asarray(rows[k]) for k in ("greater", "equal", "equal_after")))
    return RetrievalMetric().recall_sum(counts), None, None


def _f1_of_argmax(rows: Mapping[str, Sequence[Any]]) -> Parts:
    said = np.asarray(rows["probability"]) > 0.5
    values, weights = f1_parts(np.asarray(rows["label"]), said)["f1"]
    return values, weights, np.asarray(rows["dialogue"])


_RECALLS = Figures(
    columns={"R@1": "recall@1", "R@5": "recall@5", "R@10": "recall@10", "sum": "recall_sum"},
    chief="sum",
    per_example={"greater": int, "equal": int, "equal_after": int},
    parts=_recall_sums,
)


def _bleu(rows: Mapping[str, Sequence[Any]]) -> Parts:
    return bleu_sample(np.asarray(rows["bleu"])), None, np.asarray(rows["dialogue"])


_WRITTEN = {"BLEU": "bleu", "RG-L": "rougeL", "Dt-1": "distinct1", "Dt-2": "distinct2"}
_WRITTEN_EXAMPLE = {"bleu": list, "dialogue": int}


def _slot_accuracy(rows: Mapping[str, Sequence[Any]]) -> Parts:
    right = np.asarray(rows["slot_accuracy"])
    weights = (right >= 0).astype(np.float64)
    return 100.0 * (right > 0), weights, np.asarray(rows["dialogue"])


def _exact(rows: Mapping[str, Sequence[Any]]) -> Parts:
    return 100.0 * np.asarray(rows["exact"]), None, np.asarray(rows["dialogue"])


# Tasks with the same figures stand in the same tables. Those that are no task's are of tables that
# name them.
FIGURES: dict[str, Figures] = {
    "retrieval": _RECALLS,
    "rerank": _RECALLS,
    "intent": Figures(
        columns={
            "P": "precision",
            "R": "recall",
            "F1": "f1",
            "F1 at dev's threshold": "f1@threshold",
            "AP": "average_precision",
        },
        chief="F1",
        per_example={"label": int, "probability": (int, float), "dialogue": int},
        parts=_f1_of_argmax,
        bounded=("F1 at dev's threshold",),
    ),
    "response": Figures(
        columns=_WRITTEN,
        chief="BLEU",
        per_example=_WRITTEN_EXAMPLE,
        parts=_bleu,
        decimals=2,
    ),
    "response_slots": Figures(
        columns={
            "slot accuracy": "slot_accuracy",
            "another photo lowers": "swap_lowers",
            "BLEU": "bleu",
            "perplexity": "perplexity",
        },
        chief="slot accuracy",
        per_example={"slot_accuracy": int, "dialogue": int},
        parts=_slot_accuracy,
        bounded=("another photo lowers", "perplexity"),
        decimals=2,
    ),
    "response_exact": Figures(
        columns={"exact": "exact", "BLEU": "bleu", "perplexity": "perplexity"},
        chief="exact",
        per_example={"exact": (int, float), "dialogue": int},
        parts=_exact,
        bounded=("perplexity",),
        decimals=2,
    ),
    "rewrite": Figures(
        columns={**_WRITTEN, "exact": "exact"},
        chief="BLEU",
        per_example=_WRITTEN_EXAMPLE,
        parts=_bleu,
        bounded=("exact",),
        decimals=2,
    ),
}
