"""Several processes on this machine that live and die together."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from launch import outputs
from launch.exit_codes import DONE, PREEMPTED, as_exit_code

# What is passed on, and as what: a closed terminal asks for the same as `kill`.
PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}


class Group:
    """Runs commands together, their lines marked with the number of the process.

    Once one has failed, the others are asked to end, and are killed after `kill_seconds`: without
    it they would wait for it. Where one has stopped with its state saved (75), the others are about
    to do the same and get `save_seconds` for it.

    Attributes:
      signalled: whether a signal was passed on.
    """

    def __init__(self, kill_seconds: float = 10, save_seconds: float = 300):
        self.kill_seconds, self.save_seconds = kill_seconds, save_seconds
        self.signalled = False
        self._running: dict[int, subprocess.Popen] = {}
        self._ended: queue.Queue[tuple[int, int]] = queue.Queue()

    def run(self, commands: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> list[int]:
        """Exit codes in the order in which the processes ended.

        Args:
          commands: (arguments, environment) of each.
        """
        codes: list[int] = []
        with self._passing_signals_on():
            try:
                for number, (argv, environment) in enumerate(commands):
                    self._start(number, argv, environment)
                deadline, harder = None, signal.SIGTERM
                while self._running:
                    try:
                        codes.append(self._next(deadline))
                    except queue.Empty:
                        self._send(harder)
                        deadline, harder = time.monotonic() + self.kill_seconds, signal.SIGKILL
                        continue
                    if deadline is None and codes[-1] == PREEMPTED:
                        deadline = time.monotonic() + self.save_seconds
                    elif codes[-1] not in (DONE, PREEMPTED) and harder == signal.SIGTERM:
                        deadline = time.monotonic()
            finally:
                self._send(signal.SIGKILL)  # only where something went wrong here
        return codes

    def _start(self, number: int, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._running[number] = start(
            argv, str(number), lambda code: self._ended.put((number, code)), environment
        )

    def _next(self, deadline: float | None) -> int:
        """The exit code of the process that ends next. Raises queue.Empty after the deadline."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        number, code = self._ended.get(timeout=left)
        del self._running[number]
        return as_exit_code(code)

    def _send(self, number: int) -> None:
        for process in list(self._running.values()):
            if number == signal.SIGKILL:
                _signal_group(process, number)
            else:  # to mmjax alone: it tells its workers
                process.send_signal(number)

    @contextlib.contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        def pass_on(number: int, _: Any) -> None:
            self.signalled = True
            self._send(PASSED_ON[number])

        before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def start(
    argv: Sequence[str],
    mark: str,
    ended: Callable[[int], Any],
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """Starts a command that signals reach only through us, not from the terminal as well.

    Args:
      mark: stands before each of its lines.
      ended: called in a thread of its own with the return code, once its lines are written.
      environment: None: ours.
    """
    process = subprocess.Popen(
        list(argv),
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    threading.Thread(target=_watch, args=(process, mark, ended), daemon=True).start()
    return process


def _watch(process: subprocess.Popen, mark: str, ended: Callable[[int], Any]) -> None:
    lines = threading.Thread(target=_copy_lines, args=(process.stdout, mark), daemon=True)
    lines.start()
    with contextlib.suppress(ChildProcessError):  # it was waited for while it was signalled
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # What it has started itself (workers that load data) must not outlive it, or hold the pipe.
    _signal_group(process, signal.SIGKILL)
    code = process.wait()
    lines.join()
    ended(code)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _copy_lines(source: IO[str], mark: str) -> None:
    for line in source:
        outputs.write(f"[{mark}] {line}", sys.stdout)
