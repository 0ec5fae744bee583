"""Streams a plan's batches to the devices, prepared ahead in threads or processes.

The content of a batch is decided by the plan and the index alone. This file only does the work:
reads the rows that this process owns, featurizes, pads, and places them on the mesh.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
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
        """`fields`: the features to make; None: all of them."""
        self._plan, self._mesh, self._options = plan, mesh, options
        self._host = HostBatches(
            task,
            sources,
            indexes,
            plan,
            rows=process_rows(mesh, plan.batch_size),
            seed=seed,
            fields=fields,
            cached_examples=options.cached_examples,
        )
        self.waited = 0.0  # seconds that the consumer has waited for batches

    def host_batch(self, k: int) -> dict[str, Any]:
        """This process's rows of global batch `k`, as numpy."""
        return self._host(k)

    @property
    def num_batches(self) -> int:
        """Batches of one pass; only an evaluation plan has an end."""
        return len(self._plan)

    def shapes(self) -> Any:
        """A global batch as ShapeDtypeStructs, each ragged feature at its shortest bucket."""
        B = self._plan.batch_size
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((B, *x.shape[1:]), x.dtype), self._host.smallest()
        )

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """Device batches number `start` to `stop` (exclusive; None: without end)."""
        count = (1 << 62) if stop is None else stop - start
        if count <= 0:
            return
        with _signals_to_us_alone():
            stream = iter(self._stream(start, count))
            first = next(stream, None)  # here processes are started
        try:
            batch = first
            while batch is not None:
                yield self.to_device(batch)
                began = time.perf_counter()
                batch = next(stream, None)
                self.waited += time.perf_counter() - began
        finally:
            stream.close()  # ends threads and processes now, and not at the interpreter's end

    def to_device(self, batch: Any) -> Any:
        """Global arrays, cut along the batch, from this process's rows."""
        B = self._plan.batch_size

        def place(x: np.ndarray) -> jax.Array:
            spec = rules.partition_spec(("batch", *[None] * (x.ndim - 1)))
            sharding = NamedSharding(self._mesh, spec)
            return jax.make_array_from_process_local_data(sharding, x, (B, *x.shape[1:]))

        return jax.tree.map(place, batch)

    def _stream(self, start: int, count: int) -> grain.IterDataset:
        options = self._options
        numbers = grain.MapDataset.range(start, start + count)
        # Starting processes pays for photos, not for texts that are kept in memory anyway.
        workers = min(options.workers, count) if self._host.makes_more_than_texts() else 0
        if not workers:
            return numbers.map(self._host).to_iter_dataset(
                grain.ReadOptions(
                    num_threads=options.threads, prefetch_buffer_size=options.prefetch
                )
            )
        if not flags.FLAGS.is_parsed():  # Grain reads flags of its own, also outside of a command
            flags.FLAGS.mark_as_parsed()
        # A worker makes every n-th batch, and Grain takes them in turn: the order stays the plan's.
        one_at_a_time = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        return (
            numbers.map(self._host)
            .to_iter_dataset(one_at_a_time)
            .mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=workers, per_worker_buffer_size=options.prefetch
                ),
                worker_init_fn=functools.partial(_start_worker, os.getpid()),
            )
        )


@contextlib.contextmanager
def _signals_to_us_alone() -> Iterator[None]:
    """Processes that are started here leave Ctrl-C to their parent, which ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int, number: int, count: int) -> None:
    """Ends a worker with its parent, even one that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass
class HostBatches:
    """Batch number -> one process's rows of it, as numpy; nothing of it needs a device.

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


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of a global batch that this process's devices hold, in increasing order.

    Raises:
      UserError: the batch does not divide among the devices.
    """
    check_divides(mesh, batch_size)
    sharding = NamedSharding(mesh, rules.partition_spec(("batch",)))
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = {row for (part,) in slices for row in range(*part.indices(batch_size))}
    return np.array(sorted(rows), np.int64)


def check_divides(mesh: Mesh, batch_size: int) -> None:
    """Raises UserError where a batch does not divide among the devices."""
    shards = rules.axis_size(mesh, "batch")
    if batch_size % shards:
        raise UserError(
            f"a batch of {batch_size} does not divide among {shards} devices (mesh axes data x "
            f"fsdp): use a multiple of {shards} for config.train.global_batch_size and "
            "config.eval.batch_size, or another mesh."
        )
