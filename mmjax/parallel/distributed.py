"""Start-up of the processes of a run, and what they agree on while it goes."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmjax.errors import UserError
from mmjax.parallel import agreement, coordination, ending, launcher, sigterm
from mmjax.parallel.coordination import WORK_S, barrier, from_main, main_first

__all__ = [
    "WORK_S",
    "StopRequest",
    "barrier",
    "describe",
    "from_main",
    "is_main",
    "main_first",
    "start",
    "to_host",
]

logger = logging.getLogger(__name__)

MODES = ("auto", "on", "off")
_FIRST_WORDS_S = 20.0  # who waits for others for so long says so
_DEVICES_S = 300.0  # until they have answered
_NEVER_FIRST_S = 30  # that JAX waits longer than we do: it knows only how to abort
# Of JAX's ways to find out about other processes: none, where they are given. Of Slurm it would
# also take that each process has one GPU.
_AS_TOLD = "deactivate"


def start(mode: str, *, start_timeout_s: float = 300.0, lost_after_s: float = 100.0) -> None:
    """Connects the processes of this run.

    A run of one process gets a coordinator of its own: without one JAX cannot be asked whether to
    save before the machine is taken away. From here on SIGTERM is heeded, see `sigterm`.

    Args:
      mode: "auto" connects to other processes when a launcher says that there are some; "on"
        insists; "off" is one process, whatever the environment says.
      start_timeout_s: until all processes must have been started. Who waits says so long before.
      lost_after_s: a process that was not heard of for so long is taken for dead, and all end.

    Raises:
      UserError: wrong settings. Where others do not come, the process ends with a sentence.
    """
    if mode not in MODES:
        raise UserError(f"--distributed={mode}: choose one of {', '.join(MODES)}.")
    launch = None if mode == "off" else launcher.find()
    if launch is None or (mode == "auto" and launch.processes == 1):
        if mode == "on":
            raise UserError(
                "--distributed=on, but nothing says where the other processes are: start it by "
                "a launcher (launch/, srun, mpirun), or set JAX_COORDINATOR_ADDRESS, "
                "JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process."
            )
        alone = f"127.0.0.1:{_free_port()}"
        jax.distributed.initialize(
            alone,
            num_processes=1,
            process_id=0,
            coordinator_bind_address=alone,  # nobody else connects to it
            cluster_detection_method=_AS_TOLD,
        )
        sigterm.take_over()
        return
    ending.say_when_aborted(
        f"the {_count(launch)}processes of this run ({launch.by}) could not be connected (the "
        "reason stands above): see that each was started once, by the same command."
    )
    with _until(launch, start_timeout_s):
        try:
            jax.distributed.initialize(
                launch.address,
                num_processes=launch.processes if launch.address else None,
                process_id=launch.process,
                initialization_timeout=int(start_timeout_s) + _NEVER_FIRST_S,
                heartbeat_timeout_seconds=int(lost_after_s),
                cluster_detection_method=_AS_TOLD if launch.address else None,
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"the processes of this run ({launch.by}) could not be connected ({error}); with "
                "one process use --distributed=off."
            ) from error
    sigterm.take_over()
    ending.say_when_aborted(
        f"{coordination.name()} was ended by a library (its reason stands above), mostly because "
        f"another process died or its machine is gone. {ending.CONTINUES}"
    )
    if launch.processes not in (None, coordination.processes()):
        raise UserError(
            f"{launch.by} started {launch.processes} processes, but JAX connected "
            f"{coordination.processes()}: unset the variables of the other launcher, or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        )


def describe(
    versions: Mapping[str, str], config: Mapping[str, Any], command: Mapping[str, Any]
) -> None:
    """Checks that all processes are the same program, then logs what they run on.

    Args:
      versions: of libraries; config: nested; command: flat. The same on every process.

    Raises:
      UserError: a process differs; it and what differs are named.
    """
    agreement.agree(
        "versions",
        agreement.program(versions),
        "install the same packages and the same code on every machine",
    )
    agreement.agree(
        "command",
        {**command, **agreement.flat(config, "config")},
        "start every process by the same command",
    )

    def end() -> None:
        ending.end_all(
            UserError(
                f"the devices did not answer within {_DEVICES_S:.0f} s: on a slice of a TPU the "
                "command must run on every worker, and no other program may hold the chips."
            )
        )

    # The first question for devices is also when the chips of a slice look for each other.
    with coordination.still_waiting("the devices of all processes", _DEVICES_S, at_end=end):
        devices = jax.devices()
    if jax.process_count() != coordination.processes():
        raise UserError(
            f"{coordination.processes()} processes are connected, but their devices are of "
            f"{jax.process_count()}: start one process per host, each with its own devices."
        )
    logger.info(
        "process %d of %d, %d local and %d global %s devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        len(devices),
        devices[0].platform,
    )


class StopRequest:
    """Whether the run has been asked to stop, agreed by all processes at the same step.

    SIGTERM (a preemption) comes through JAX's preemption service; one that comes too late to be
    heeded ends the run where this is left. Ctrl-C asks for the same once; a second Ctrl-C stops at
    once.
    """

    def __init__(self):
        self.interrupted = False
        self._previous = None

    def __enter__(self) -> StopRequest:
        sigterm.begin_loop()
        if jax.process_count() == 1:
            try:
                self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
            except ValueError:  # not in the main thread: the caller handles its own signals
                self._previous = None
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        sigterm.end_loop(heeded=error is not None)

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
    return coordination.process() == 0


def to_host(x: jax.Array) -> np.ndarray:
    """A global array as numpy on every process."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


@contextlib.contextmanager
def _until(launch: launcher.Launch, timeout_s: float) -> Iterator[None]:
    """Ends this process with a sentence when the others do not come."""
    me = "this process" if launch.process is None else f"process {launch.process}"

    def end() -> None:
        if launch.process and launch.address and not _answers(launch.address):
            why = f"process 0 does not answer at {launch.address}"
        elif launch.process:
            why = f"process 0 answers at {launch.address}, but another process is missing"
        else:
            why = "at least one of the others is missing, or cannot reach this one"
        ending.end_alone(
            UserError(
                f"{me} on {socket.gethostname()} waited {timeout_s:.0f} s for all "
                f"{_count(launch)}processes that {launch.by} tells of; {why}. Start the command "
                "on every worker, see that no firewall is between them, or say --distributed=off "
                "for a run of this process alone."
            )
        )

    waiting = f"all {_count(launch)}processes of {launch.by} to start (is it on every worker?)"
    first_words = min(_FIRST_WORDS_S, timeout_s / 2)
    with coordination.still_waiting(waiting, timeout_s, at_end=end, told_after_s=first_words):
        yield


def _count(launch: launcher.Launch) -> str:
    return "" if launch.processes is None else f"{launch.processes} "


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
