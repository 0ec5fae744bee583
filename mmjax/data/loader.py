"""Streams a plan's batches to the devices, prepared ahead in threads.

The content of a batch is decided by the plan and the index alone. This file only does the work:
reads the rows that this process owns, featurizes, pads, and places them on the mesh.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mmjax.config import LoaderOptions
from mmjax.data.examples import Featurizer
from mmjax.data.featurize import collate, example_rng
from mmjax.data.index import ExampleIndex, dense_keys
from mmjax.data.plan import EvalPlan, PlannedBatch, TrainPlan
from mmjax.data.sources import Source
from mmjax.errors import UserError
from mmjax.parallel import rules


class Loader:
    """Batches of a task over one or several sources.

    A batch is a dict: the task's features (ragged ones as {"ids", "mask"}), "keys" int32 [B, K]
    (-1 in padding rows), "weight" float32 [B] (0 in padding rows).
    """

    def __init__(
        self,
        task: Featurizer,
        sources: Sequence[Source],
        indexes: Sequence[ExampleIndex],
        plan: TrainPlan | EvalPlan,
        mesh: Mesh,
        options: LoaderOptions,
        *,
        seed: int = 0,
        fields: Sequence[str] | None = None,
    ):
        """`fields`: the features to keep; None: all of them."""
        self._task, self._sources, self._indexes = task, sources, indexes
        self._plan, self._options, self._seed, self._fields = plan, options, seed, fields
        self._keys = dense_keys(indexes, task.key_names)
        self._mesh = mesh
        self._rows = process_rows(mesh, plan.batch_size)
        self._cache: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self.waited = 0.0  # seconds that the consumer has waited for batches

    def host_batch(self, k: int) -> dict[str, Any]:
        """This process's rows of global batch `k`, as numpy."""
        planned = self._plan.batch(k)
        padded = self._padded_lengths(planned)
        mine = planned.rows(self._rows)
        rows = [
            None if example < 0 else self._features(int(source), int(example), int(epoch))
            for source, example, epoch in zip(mine.source, mine.example, mine.epoch, strict=True)
        ]
        # A process may have nothing of the last batch; then any example tells the types.
        like = next((row for row in rows if row is not None), None) or self._features(0, 0, 0)
        batch = collate(rows, like, self._task.ragged, padded)
        batch["weight"] = (mine.example >= 0).astype(np.float32)
        batch["keys"] = np.stack(
            [
                np.full(len(self._task.key_names), -1, np.int32) if e < 0 else self._keys[s][e]
                for s, e in zip(mine.source, mine.example, strict=True)
            ]
        )
        return batch

    @property
    def num_batches(self) -> int:
        """Batches of one pass; only an evaluation plan has an end."""
        return len(self._plan)

    def shapes(self) -> Any:
        """A global batch as ShapeDtypeStructs, each ragged feature at its shortest bucket."""
        features = self._features(0, 0, 0)
        padded = {name: ragged.buckets[0] for name, ragged in self._task.ragged.items()}
        cut = {
            name: value[: padded[name]] if name in padded else value
            for name, value in features.items()
        }
        batch = collate([cut], cut, self._task.ragged, padded)
        batch["weight"] = np.zeros(1, np.float32)
        batch["keys"] = np.zeros((1, len(self._task.key_names)), np.int32)
        B = self._plan.batch_size
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((B, *x.shape[1:]), x.dtype), batch)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """Device batches number `start` to `stop` (exclusive; None: without end)."""
        count = (1 << 62) if stop is None else stop - start
        if count <= 0:
            return
        numbers = grain.MapDataset.range(start, start + count)
        stream = numbers.map(self.host_batch).to_iter_dataset(
            grain.ReadOptions(
                num_threads=self._options.threads, prefetch_buffer_size=self._options.prefetch
            )
        )
        stream = iter(stream)
        while True:
            began = time.perf_counter()
            batch = next(stream, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield self.to_device(batch)

    def to_device(self, batch: Any) -> Any:
        """Global arrays, cut along the batch, from this process's rows."""
        B = self._plan.batch_size

        def place(x: np.ndarray) -> jax.Array:
            spec = rules.partition_spec(("batch", *[None] * (x.ndim - 1)))
            sharding = NamedSharding(self._mesh, spec)
            return jax.make_array_from_process_local_data(sharding, x, (B, *x.shape[1:]))

        return jax.tree.map(place, batch)

    def _features(self, source: int, example: int, epoch: int) -> dict[str, np.ndarray]:
        cached = self._cache.get((source, example))
        if cached is not None:
            return cached
        index = self._indexes[source]
        dialogue = self._sources[source][int(index.record[example])]
        rng = example_rng(self._seed, source, example, epoch)
        features = dict(self._task.featurize(dialogue, int(index.sub[example]), rng))
        if self._fields is not None:
            features = {name: features[name] for name in self._fields}
        if self._task.deterministic and len(self._cache) < self._options.cached_examples:
            self._cache[source, example] = features
        return features

    def _padded_lengths(self, planned: PlannedBatch) -> dict[str, int]:
        """From the whole global batch, so that all processes agree on the shape."""
        lengths = dict.fromkeys(self._task.ragged, 0)
        for s in np.unique(planned.source):
            examples = planned.example[(planned.source == s) & (planned.example >= 0)]
            for name in lengths:
                found = self._indexes[s].lengths[name][examples]
                lengths[name] = max(lengths[name], int(found.max(initial=0)))
        return {name: self._task.ragged[name].padded_length(n) for name, n in lengths.items()}


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of a global batch that this process's devices hold, in increasing order.

    Raises:
      UserError: the batch does not divide among the devices.
    """
    sharding = NamedSharding(mesh, rules.partition_spec(("batch",)))
    shards = rules.axis_size(mesh, "batch")
    if batch_size % shards:
        raise UserError(
            f"a batch of {batch_size} does not divide among {shards} devices (mesh axes data x "
            f"fsdp): use a multiple of {shards} for config.train.global_batch_size and "
            "config.eval.batch_size, or another mesh."
        )
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = {row for (part,) in slices for row in range(*part.indices(batch_size))}
    return np.array(sorted(rows), np.int64)
