"""One process's rows of a planned batch, as numpy: read, featurized, padded.

The content of a batch is decided by the plan and the index alone; nothing here needs a device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.examples import Featurizer
from mmjax.data.featurize import collate, example_rng
from mmjax.data.index import ExampleIndex, dense_keys
from mmjax.data.plan import EvalPlan, PlannedBatch, TrainPlan
from mmjax.data.sources import Source


@dataclasses.dataclass
class HostBatches:
    """Batch number -> one process's rows of it.

    Attributes:
      rows: int64, this process's rows of a global batch.
      fields: the features to make; None: all.
      cached_examples: whose cheap features are kept.
    """

    task: Featurizer
    sources: Sequence[Source]
    indexes: Sequence[ExampleIndex]
    plan: TrainPlan | EvalPlan
    rows: np.ndarray
    seed: int
    fields: Sequence[str] | None
    cached_examples: int

    def __post_init__(self):
        self._cache: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        # All of a task's features have the same names; the first example tells them.
        self._names = tuple(self.fields or ())

    def __call__(self, k: int) -> dict[str, Any]:
        """This process's rows of global batch `k`."""
        planned = self.plan.batch(k)
        padded = self._padded_lengths(planned)
        mine = planned.rows(self.rows)
        rows = [
            None if example < 0 else self._row(int(source), int(example), int(epoch))
            for source, example, epoch in zip(mine.source, mine.example, mine.epoch, strict=True)
        ]
        # A process may have nothing of the last batch; then any example tells the types.
        like = next((row for row in rows if row is not None), None) or self._row(0, 0, 0)
        batch = collate(rows, like, self.task.ragged, padded)
        batch["weight"] = (mine.example >= 0).astype(np.float32)
        batch["keys"] = np.stack(
            [
                np.full(len(self.task.key_names), -1, np.int32) if e < 0 else self._keys[s][e]
                for s, e in zip(mine.source, mine.example, strict=True)
            ]
        )
        return batch

    def smallest(self) -> dict[str, Any]:
        """A batch of one row, each ragged feature at its shortest bucket."""
        return self._one_row({name: ragged.buckets[0] for name, ragged in self.task.ragged.items()})

    def largest(self) -> dict[str, Any]:
        """The same with each at its longest."""
        return self._one_row(
            {name: ragged.buckets[-1] for name, ragged in self.task.ragged.items()}
        )

    def _one_row(self, padded: Mapping[str, int]) -> dict[str, Any]:
        features = self._row(0, 0, 0)
        cut = {
            name: value[: padded[name]] if name in padded else value
            for name, value in features.items()
        }
        batch = collate([cut], cut, self.task.ragged, padded)
        batch["weight"] = np.zeros(1, np.float32)
        batch["keys"] = np.zeros((1, len(self.task.key_names)), np.int32)
        return batch

    def makes_more_than_texts(self) -> bool:
        """Whether there is a feature that is not kept in memory."""
        return self.fields is None or not set(self.fields) <= set(self.task.cached)

    @functools.cached_property
    def _keys(self) -> list[np.ndarray]:
        return dense_keys(self.indexes, self.task.key_names)

    def _row(self, source: int, example: int, epoch: int) -> Mapping[str, np.ndarray]:
        """One example's features, which are made when `collate` asks for them."""
        known = self._cache.get((source, example), {})
        if self._names and known.keys() >= set(self._names):
            return _Row(self._names, {}, known, ())
        index = self.indexes[source]
        dialogue = self.sources[source][int(index.record[example])]
        rng = None
        if isinstance(self.plan, TrainPlan):
            rng = example_rng(self.seed, source, example, epoch)
        made = self.task.featurize(dialogue, int(index.sub[example]), rng)
        self._names = self._names or tuple(made)
        keep = set(self._names) & set(self.task.cached)
        if keep and ((source, example) in self._cache or len(self._cache) < self.cached_examples):
            known = self._cache.setdefault((source, example), {})
            return _Row(self._names, made, known, keep)
        return _Row(self._names, made, {}, ())

    def _padded_lengths(self, planned: PlannedBatch) -> dict[str, int]:
        """From the whole global batch, so that all processes agree on the shape."""
        lengths = dict.fromkeys(self.task.ragged, 0)
        for s in np.unique(planned.source):
            examples = planned.example[(planned.source == s) & (planned.example >= 0)]
            for name in lengths:
                found = self.indexes[s].lengths[name][examples]
                lengths[name] = max(lengths[name], int(found.max(initial=0)))
        return {name: self.task.ragged[name].padded_length(n) for name, n in lengths.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}


@dataclasses.dataclass(frozen=True, slots=True)
class _Row(Mapping):
    """Features by name; those in `keep` are put into `known` when they are made."""

    names: Sequence[str]
    made: Mapping[str, np.ndarray]
    known: dict[str, np.ndarray]
    keep: Collection[str]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.known:
            return self.known[name]
        value = self.made[name]
        if name in self.keep:
            self.known[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
