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
from mmjax.data.featurize import Ragged, collate, example_rng
from mmjax.data.index import ExampleIndex, dense_keys
from mmjax.data.packed_plan import PackedPlan
from mmjax.data.packing import NUMBER, Packing, pack_row
from mmjax.data.plan import EvalPlan, PlannedBatch, TrainPlan
from mmjax.data.sources import Source


@dataclasses.dataclass
class HostBatches:
    """Batch number -> one process's rows of it.

    Attributes:
      rows: int64, this process's rows of a global batch.
      fields: the features to make; None: all.
      cached_examples: whose cheap features are kept.
      packing: how the examples of a `PackedPlan` share rows.
      featurizers: who makes the examples of each source, where it is not `task` of all; their
        features have the names that the task's have.

    Raises:
      ValueError: examples with keys are to share rows, where nobody could tell them apart.
    """

    task: Featurizer
    sources: Sequence[Source]
    indexes: Sequence[ExampleIndex]
    plan: TrainPlan | PackedPlan | EvalPlan
    rows: np.ndarray
    seed: int
    fields: Sequence[str] | None
    cached_examples: int
    packing: Packing | None = None
    featurizers: Sequence[Featurizer] | None = None

    def __post_init__(self):
        if self.packing is not None and self.task.key_names:
            raise ValueError(f"examples with keys {list(self.task.key_names)} cannot share rows")
        self._cache: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        # All of a task's features have the same names; the first example tells them.
        self._names = tuple(self.fields or ())

    def __call__(self, k: int) -> dict[str, Any]:
        """This process's rows of global batch `k`."""
        planned = self.plan.batch(k)
        padded = self._padded_lengths(planned)
        members = planned.rows(self.rows).members()
        rows = [self._row(row) if row else None for row in members]
        # A process may have nothing of the last batch; then any example tells the types.
        like = next((row for row in rows if row is not None), None) or self._row([(0, 0, 0)])
        batch = collate(rows, like, self._ragged, padded)
        batch["weight"] = np.array([bool(row) for row in members], np.float32)
        nobody = np.full(len(self.task.key_names), -1, np.int32)
        batch["keys"] = np.stack(
            [self._keys[row[0][0]][row[0][1]] if row else nobody for row in members]
        )
        return batch

    def smallest(self) -> dict[str, Any]:
        """A batch of one row, each ragged feature at its shortest bucket."""
        return self._one_row({name: ragged.buckets[0] for name, ragged in self._ragged.items()})

    def largest(self) -> dict[str, Any]:
        """The same with each at its longest."""
        return self._one_row({name: ragged.buckets[-1] for name, ragged in self._ragged.items()})

    def _one_row(self, padded: Mapping[str, int]) -> dict[str, Any]:
        features = self._features(0, 0, 0)
        row: Mapping[str, np.ndarray] = {
            name: value[: padded[name]] if name in padded else value
            for name, value in features.items()
        }
        if self.packing is not None:
            lengths = {
                name: [min(found[0], self.packing.limits.get(name, found[0]))]
                for name, found in self._lengths([(0, 0, 0)]).items()
            }
            row = pack_row([row], lengths, self.packing)
        batch = collate([row], row, self._ragged, padded)
        batch["weight"] = np.zeros(1, np.float32)
        batch["keys"] = np.zeros((1, len(self.task.key_names)), np.int32)
        return batch

    def makes_more_than_texts(self) -> bool:
        """Whether there is a feature that is not kept in memory."""
        return self.fields is None or not set(self.fields) <= set(self.task.cached)

    @functools.cached_property
    def _keys(self) -> list[np.ndarray]:
        return dense_keys(self.indexes, self.task.key_names)

    @property
    def _ragged(self) -> Mapping[str, Ragged]:
        if self.packing is None:
            return self.task.ragged
        return {**self.packing.ragged, NUMBER: Ragged(0, (self.packing.row_length,))}

    def _row(self, members: Sequence[tuple[int, int, int]]) -> Mapping[str, np.ndarray]:
        """The features of a row of these (source, example, epoch)."""
        examples = [self._features(*member) for member in members]
        if self.packing is None:
            return examples[0]
        return pack_row(examples, self._lengths(members), self.packing)

    def _lengths(self, members: Sequence[tuple[int, int, int]]) -> dict[str, list[int]]:
        """What packing must know of each of them."""
        return {
            name: [int(self.indexes[s].lengths[name][example]) for s, example, _ in members]
            for name in self.packing.lengths
        }

    def _features(self, source: int, example: int, epoch: int) -> Mapping[str, np.ndarray]:
        """One example's features, which are made when `collate` asks for them."""
        known = self._cache.get((source, example), {})
        if self._names and known.keys() >= set(self._names):
            return _Row(self._names, {}, known, ())
        index = self.indexes[source]
        dialogue = self.sources[source][int(index.record[example])]
        rng = None
        if not isinstance(self.plan, EvalPlan):
            rng = example_rng(self.seed, source, example, epoch)
        maker = self.task if self.featurizers is None else self.featurizers[source]
        made = maker.featurize(dialogue, int(index.sub[example]), rng)
        self._names = self._names or tuple(made)
        keep = set(self._names) & set(self.task.cached)
        if keep and ((source, example) in self._cache or len(self._cache) < self.cached_examples):
            known = self._cache.setdefault((source, example), {})
            return _Row(self._names, made, known, keep)
        return _Row(self._names, made, {}, ())

    def _padded_lengths(self, planned: PlannedBatch) -> dict[str, int]:
        """From the whole global batch, so that all processes agree on the shape."""
        padded = {}
        for name, ragged in self._ragged.items():
            known = self.packing.tokens if name == NUMBER else name
            length = np.zeros(planned.example.shape, np.int64)  # [B] or [B, S]
            for s in np.unique(planned.source):
                here = (planned.source == s) & (planned.example >= 0)
                length[here] = self.indexes[s].lengths[known][planned.example[here]]
            of_row = length.reshape(len(length), -1).sum(axis=1)
            padded[name] = ragged.padded_length(int(of_row.max(initial=0)))
        return padded

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
