"""Start-up of the processes of a run, and what they agree on while it goes."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmjax.errors import UserError

logger = logging.getLogger(__name__)

MODES = ("auto", "on", "off")

# Set by launchers of several processes; their presence makes "auto" wait for the others.
_LAUNCHER_VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "SLURM_JOB_ID",
    "OMPI_MCA_orte_hnp_uri",
    "TPU_WORKER_HOSTNAMES",
    "MEGASCALE_COORDINATOR_ADDRESS",
)


def start(mode: str) -> None:
    """Connects the processes of this run.

    A run of one process gets a coordinator of its own: without one JAX neither notices SIGTERM nor
    can be asked whether to save before the machine is taken away.

    Args:
      mode: "auto" connects to other processes when a launcher's variables are set; "on" insists;
        "off" is one process, whatever the environment says.
    """
    if mode not in MODES:
        raise UserError(f"--distributed={mode}: choose one of {', '.join(MODES)}.")
    found = [v for v in _LAUNCHER_VARIABLES if os.environ.get(v)]
    several = mode == "on" or (mode == "auto" and _several_processes(found))
    try:
        if several:
            jax.distributed.initialize(
                num_processes=_integer("JAX_NUM_PROCESSES"), process_id=_integer("JAX_PROCESS_ID")
            )
        else:
            jax.distributed.initialize(f"127.0.0.1:{_free_port()}", num_processes=1, process_id=0)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run could not be connected ({error}); with one process use "
            f"--distributed=off (launcher variables found: {', '.join(found) or 'none'})."
        ) from error
    logger.info(
        "process %d of %d, %d local and %d global %s devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        jax.devices()[0].platform,
    )


class StopRequest:
    """Whether the run has been asked to stop, agreed by all processes at the same step.

    SIGTERM (a preemption) comes through JAX's preemption service. Ctrl-C asks for the same once;
    a second Ctrl-C stops at once.
    """

    def __init__(self):
        self.interrupted = False
        self._previous = None

    def __enter__(self) -> StopRequest:
        if jax.process_count() == 1:
            try:
                self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
            except ValueError:  # not in the main thread: the caller handles its own signals
                self._previous = None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def agreed(self, step: int) -> bool:
        """True at the step at which every process stops. Call it once per step."""
        if self.interrupted:
            return True
        return multihost_utils.reached_preemption_sync_point(step)

    def _on_interrupt(self, *_: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.warning("Ctrl-C: saving and stopping; press it again to stop at once")


def is_main() -> bool:
    """Whether this process writes what one process writes for all."""
    return jax.process_index() == 0


def from_main(value: int) -> int:
    """The main process's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def to_host(x: jax.Array) -> np.ndarray:
    """A global array as numpy on every process."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def barrier(name: str) -> None:
    """Waits for all processes; a process that is alone goes on."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _several_processes(found: list[str]) -> bool:
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if found == ["TPU_WORKER_HOSTNAMES"]:
        return "," in hosts
    return bool(found)


def _integer(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdigit():
        raise UserError(f"{variable}={value!r} is not a number.")
    return int(value)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
