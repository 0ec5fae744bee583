"""What ends one process of a run ends all, at once and with a sentence.

Left alone, the others would wait in a collective until a time-out. So a process that fails tells
the others before it goes, and a thread in each listens. One that is killed can tell nothing: JAX's
heartbeats notice that, and JAX then ends the others by abort() from a thread of its own (its
callback takes a type that Python cannot receive), which is caught here to say what has happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from mmjax import storage
from mmjax.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    UserError,
)
from mmjax.parallel import coordination

_HEARD_WITHIN_S = 30.0  # who does not answer for so long is gone; a busy machine is slow to
_LOST_WITHIN_S = 5.0  # the same, where it is known that some process is gone
CONTINUES = "The same command continues from the last checkpoint."
# What libraries say when another process is gone.
_BROKEN = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|coordination ?service|heartbeat", re.I
)

_ending = threading.Lock()  # held by the thread that ends this process
_verdict: tuple[str, int] | None = None  # its sentence and exit code, as soon as they are known
_last_acts: list[Callable[[], None]] = []
_on_abort: Any = None  # must outlive its registration with the C library


class Terminated(Exception):  # noqa: N818 - nothing went wrong
    """The process was asked to end (SIGTERM)."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An error in here ends all processes of the run; in a run of one it is raised."""
    if coordination.processes() == 1:
        yield
        return
    listener = threading.Thread(target=_listen, name="ending", daemon=True)
    listener.start()
    try:
        yield
        # One may have more to write than the others, who listen meanwhile: JAX's own end waits for
        # five minutes, and would then take the one that writes for lost.
        coordination.barrier("the end", coordination.WORK_S)
        # Here, and not when the interpreter ends: by then no thread could say what went wrong.
        coordination.tell(f"end/{coordination.process()}", None)
        listener.join()
        jax.distributed.shutdown()
        _say_nothing_when_aborted()
    except (Exception, KeyboardInterrupt) as error:
        end_all(error)


def end_all(error: BaseException) -> NoReturn:
    """Ends this process, from any of its threads, and the others of the run; says why."""
    if coordination.processes() == 1:
        end_alone(error)
    _begin()
    sentence, code = _decide(*_described(error))
    if code == EXIT_BUG:
        traceback.print_exception(error)
    # Whatever is wrong with the others, or with the service in process 0: this one ends.
    within = _LOST_WITHIN_S if code == EXIT_LOST else _HEARD_WITHIN_S
    limit = threading.Timer(3 * within, _leave, (sentence, code))
    limit.daemon = True
    limit.start()
    with contextlib.suppress(Exception):
        if code == EXIT_LOST:
            with contextlib.suppress(TimeoutError):  # mostly it is the consequence of an ending
                _follow(coordination.ask("end", within))
        me = coordination.process()
        end = {"process": me, "why": sentence, "code": code}
        first = coordination.tell("end", end)
        if not first and code != EXIT_USER_ERROR:
            _follow(coordination.ask("end", within))
        gone = []
        if first:
            for number in range(coordination.processes()):
                coordination.tell(f"end/{number}", end)
            gone = _silent(within)
        if gone and code == EXIT_LOST:
            sentence += f" No answer from {' and '.join(f'process {n}' for n in gone)}."
        coordination.tell(f"heard/{me}", True)
    _leave(sentence, code)


def end_alone(error: BaseException) -> NoReturn:
    """Ends this process, from any of its threads, without a word to others."""
    _begin()
    _leave(*_described(error))


def at_end(act: Callable[[], None]) -> None:
    """`act` is called when a process is ended here, which skips what stands in `finally`."""
    _last_acts.append(act)


def say_when_aborted(sentence: str) -> None:
    """When a library ends this process by abort(), it says so, and has an exit code of its own."""
    global _on_abort
    owner = os.getpid()

    def on_abort(number: int) -> None:
        if os.getpid() != owner:
            os._exit(EXIT_LOST)
        # Another thread may be about to say why; but it may also be held up by this one, which
        # brings the answers to what it tells the others.
        _ending.acquire(timeout=_HEARD_WITHIN_S if _verdict is None else _LOST_WITHIN_S)
        _leave(*(_verdict or (sentence, EXIT_LOST)))

    # Not `signal.signal`: its handlers run in the main thread, which does not come to run again.
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


def _say_nothing_when_aborted() -> None:
    ctypes.CDLL(None).signal(signal.SIGABRT, ctypes.c_void_p(signal.SIG_DFL))


def _listen() -> None:
    while True:
        try:
            end = coordination.ask(f"end/{coordination.process()}", timeout_s=3600.0)
        except TimeoutError:
            continue
        except jax.errors.JaxRuntimeError:  # JAX is about to end the process
            return
        break
    if end is not None:
        _begin()
        _follow(end)


def _follow(end: dict[str, Any]) -> NoReturn:
    """Ends this process because another one ended."""
    sentence, code = _decide(
        f"{coordination.name(end['process'])} stopped: {end['why']}", end["code"]
    )
    with contextlib.suppress(Exception):
        coordination.tell(f"heard/{coordination.process()}", True)
        if coordination.process() == 0:
            # The service through which the others hear of it ends with this process.
            _silent(_LOST_WITHIN_S if code == EXIT_LOST else _HEARD_WITHIN_S)
    _leave(sentence, code)


def _begin() -> None:
    """One thread ends the process; another one that wants to waits until it is done."""
    if not _ending.acquire(blocking=False):
        threading.Event().wait(4 * _HEARD_WITHIN_S)
        os._exit(EXIT_BUG)


def _decide(sentence: str, code: int) -> tuple[str, int]:
    """Both, as what is said of the end whoever comes to say it."""
    global _verdict
    _verdict = (sentence, code)
    return _verdict


def _described(error: BaseException) -> tuple[str, int]:
    """The sentence, and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, Terminated):
        return "SIGTERM: what was saved is kept; the same command continues.", EXIT_PREEMPTED
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what was saved is kept.", EXIT_INTERRUPTED
    if told := storage.as_told(error):
        return str(told), told.exit_code
    first = str(error).partition("\n")[0][:200]
    if isinstance(error, jax.errors.JaxRuntimeError | ValueError) and _BROKEN.search(str(error)):
        return f"another process died or cannot be reached ({first}). {CONTINUES}", EXIT_LOST
    return f"{type(error).__name__}: {first}", EXIT_BUG


def _silent(within: float) -> list[int]:
    """The other processes that have not heard of the end in so many seconds."""
    end, gone = time.monotonic() + within, []
    for number in range(coordination.processes()):
        if number == coordination.process():
            continue
        try:
            coordination.ask(f"heard/{number}", max(0.1, end - time.monotonic()))
        except TimeoutError:
            gone.append(number)
    return gone


def _leave(sentence: str, code: int) -> NoReturn:
    for act in _last_acts:
        with contextlib.suppress(Exception):
            act()
    sys.stdout.flush()
    print(f"mmjax: {sentence}", file=sys.stderr, flush=True)
    os._exit(code)
