"""What the processes of a run tell each other outside of computations: values, and barriers.

It goes through the coordination service that `jax.distributed` starts in process 0, which needs no
device: it works before anything is compiled, and has time-outs. JAX has no public way to it; this
is the only file that takes the private one.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed as jax_distributed

from mmjax.errors import UserError

logger = logging.getLogger(__name__)

TIMEOUT_S = 600.0  # of a barrier, and of a value that another process will tell
# Where one process works for all the others: it may download, fit or write for hours. One that dies
# meanwhile is noticed by its heartbeats.
WORK_S = 24 * 3600.0
_TOLD_AFTER_S = 20.0  # who waits for longer says for what

_counts: collections.Counter[str] = collections.Counter()


def process() -> int:
    """The number of this process; 0 before the start."""
    return jax_distributed.global_state.process_id or 0


def processes() -> int:
    """How many there are; 1 before the start."""
    return jax_distributed.global_state.num_processes or 1


def tell(key: str, value: Any) -> bool:
    """Sets a JSON value that every process can ask for, once; False where it was set before."""
    try:
        _client().key_value_set(f"mmjax/{key}", json.dumps(value))
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" in str(error):
            return False
        raise
    return True


def ask(key: str, timeout_s: float | None = None) -> Any:
    """A value that some process tells, when it has; raises TimeoutError."""
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    try:
        return json.loads(_client().blocking_key_value_get(f"mmjax/{key}", _ms(timeout_s)))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            raise TimeoutError(f"no process told {key} within {timeout_s:.0f} s") from error
        raise


def from_main(value: Any, what: str, timeout_s: float | None = None) -> Any:
    """The main process's JSON value, on every process, which all call it.

    Raises:
      UserError: the main process does not come to this point in time.
    """
    if processes() == 1:
        return value
    key = f"said/{turn(what)}"
    if process() == 0:
        tell(key, value)
        return value
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    with still_waiting(f"process 0, for {what}", timeout_s):
        try:
            return ask(key, timeout_s)
        except TimeoutError as error:
            raise UserError(
                f"process 0 did not say {what} to {name()} within {timeout_s:.0f} s: look at its "
                "log, and start the command again."
            ) from error


def barrier(what: str, timeout_s: float | None = None) -> None:
    """Waits until every process is here; one that is alone goes on.

    Raises:
      UserError: they are not all here in time; those that are missing are named.
    """
    if processes() == 1:
        return
    timeout_s, began = TIMEOUT_S if timeout_s is None else timeout_s, time.monotonic()
    with still_waiting(f"the other processes, at the barrier {what!r}", timeout_s):
        try:
            _client().wait_at_barrier(f"mmjax/{turn(what)}", _ms(timeout_s))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            late = _missing(str(error))
            raise UserError(
                f"the barrier {what!r} was not reached by {late or 'every process'} within "
                f"{timeout_s:.0f} s: look at the log there, and start the command again."
            ) from error
    logger.info("barrier %r: all here after %.1f s", what, time.monotonic() - began)


def main_first(what: str, function: Callable[[], None]) -> None:
    """Calls `function` on the main process, and then on the others, which find its work done."""
    if process() == 0:
        function()
    barrier(what, WORK_S)
    if process() != 0:
        function()


def name(number: int | None = None) -> str:
    """ "process 1 of 4": of this process, or of another."""
    return f"process {process() if number is None else number} of {processes()}"


@contextlib.contextmanager
def still_waiting(
    what: str,
    timeout_s: float,
    *,
    at_end: Callable[[], None] | None = None,
    told_after_s: float = _TOLD_AFTER_S,
) -> Iterator[None]:
    """Says what a process waits for, when that takes long.

    Args:
      at_end: called from another thread when the time is over, for calls that know no time-out.
    """
    done = threading.Event()

    def watch() -> None:
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            if done.wait(min(told_after_s, left)):
                return
            waited = timeout_s - (end - time.monotonic())
            logger.info("waiting for %s: %.0f s of at most %.0f s", what, waited, timeout_s)
        if at_end is not None and not done.is_set():
            at_end()

    threading.Thread(target=watch, name="still waiting", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _missing(report: str) -> str:
    """ "process 1 and process 3": the tasks that the coordination service's report lists."""
    numbers = sorted(map(int, re.findall(r"^(\d+)$", report, re.MULTILINE)))
    return " and ".join(f"process {n}" for n in numbers)


def turn(what: str) -> str:
    """A key of its own for each time; all processes come to the same points in the same order."""
    _counts[what] += 1
    return f"{what}/{_counts[what]}"


def _client() -> Any:
    return jax_distributed.global_state.client


def _ms(seconds: float) -> int:
    return max(1, int(1000 * seconds))
