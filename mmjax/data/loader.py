"""Streams a plan's batches to the devices, prepared ahead in threads or processes.

The content of a batch is decided by the plan and the index alone. This file only does the work:
has the rows that this process owns made (`mmjax.data.batches`), and places them on the mesh.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding

from mmjax.data.batches import HostBatches
from mmjax.data.examples import Featurizer
from mmjax.data.index import ExampleIndex
from mmjax.data.packed_plan import PackedPlan
from mmjax.data.packing import Packing
from mmjax.data.plan import EvalPlan, TrainPlan
from mmjax.data.sources import Source
from mmjax.errors import UserError
from mmjax.options import LoaderOptions
from mmjax.parallel import rules


class Loader:
    """Batches of a task over one or several sources.

    A batch is a dict: the task's features (ragged ones as {"ids", "mask"}), "keys" int32 [B, K]
    (-1 in padding rows), "weight" float32 [B] (0 in padding rows). Where examples share rows it
    has as features those of rows, see `mmjax.data.packing`.
    """

    def __init__(
        self,
        task: Featurizer,
        sources: Sequence[Source],
        indexes: Sequence[ExampleIndex],
        plan: TrainPlan | PackedPlan | EvalPlan,
        mesh: Mesh,
        options: LoaderOptions,
        *,
        seed: int = 0,
        fields: Sequence[str] | None = None,
        packing: Packing | None = None,
        featurizers: Sequence[Featurizer] | None = None,
    ):
        """`fields`: the features to make; None: all of them. `packing`: of a `PackedPlan`.
        `featurizers`: see `HostBatches`."""
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
            packing=packing,
            featurizers=featurizers,
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
