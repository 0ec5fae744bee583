"""Runs of `mmjax.main` in processes of their own that are killed where a test says.

    python tests/end_to_end/driver.py      (requests come on stdin, answers go to stdout)

This process imports everything once; each run is a fork of it, made before JAX has started, so
that a start costs the start and not the imports. The product knows nothing of this: where to die
is decided from outside, by Python's audit events (file operations) and by wrapped functions.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_until_the_end = contextlib.ExitStack()  # of a run's process: what is collected is undone


class Driver:
    """The test's end: starts the driving process and tells it what to do."""

    def __init__(self, environment: dict[str, str]):
        """`environment`: variables beside those of this process."""
        environment = {
            **os.environ,
            **environment,
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",  # its threads would not survive the fork
            "PYTHONPATH": str(ROOT),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def run(self, arguments: list[str], log: Path, **fate: Any) -> int:
        """One run to its end; the exit code, or minus the signal that killed it.

        Args:
          arguments: of the command line.
          log: what the run prints is added to this file.
          **fate: see `_seal`.
        """
        return self.wait(self.start(arguments, log, **fate))

    def start(
        self,
        arguments: list[str],
        log: Path,
        environment: dict[str, str] | None = None,
        **fate: Any,
    ) -> int:
        """Begins a run; its process id.

        Args:
          environment: variables of this run alone.
        """
        request = {"arguments": arguments, "log": str(log), "environment": environment or {}}
        return self._ask({**request, "fate": fate})

    def wait(self, pid: int) -> int:
        """Returns when the run has ended (see `run`) or has stopped itself (then -SIGSTOP)."""
        return self._ask({"wait": pid})

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> int:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve() -> None:
    """The driving process: answers requests until there are no more."""
    import tensorflow_datasets  # noqa: F401

    import mmjax.main
    import mmjax.network
    import mmjax.tasks.retrieval  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"  # noqa: PTH208
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], os.WUNTRACED)
            stopped = os.WIFSTOPPED(status)
            code = -os.WSTOPSIG(status) if stopped else os.waitstatus_to_exitcode(status)
            print(code, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become(request)
            return
        print(pid, flush=True)


def _become(request: dict[str, Any]) -> None:
    """In the fork: what a fresh process with this command line would do."""
    output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(stream, target)
    os.environ.update(request["environment"])
    sys.argv = ["mmjax", *request["arguments"]]
    _seal(**request["fate"])
    sys.modules["mmjax.main"].run()


def _seal(
    sign: str = "SIGKILL",
    event: int | None = None,
    inside: str = "",
    call: tuple[str, int] | None = None,
    write: tuple[str, int, float] | None = None,
    count_in: str | None = None,
    settle: bool = False,
    pretend: tuple[str, Any] | None = None,
    store: str | None = None,
) -> None:
    """Decides when this process gets the signal `sign`; without arguments never.

    Args:
      event: before the file operation of this number below the folder `inside`.
      call: (path of a function, n): before its n-th call.
      write: (part of a path, n, share): in the n-th write to such a file, when `share` of the
        text is in it.
      count_in: a file that gets the number of file operations below `inside`.
      pretend: (path of a module's attribute, its value here).
      store: gs://bucket is this folder, see `tests.object_store`.
      settle: a save ends before the run goes on, so that what is on disk at a point is known.
    """

    def strike() -> None:
        os.kill(os.getpid(), getattr(signal, sign))

    if event or count_in:
        _count_operations(event, inside, count_in, strike)
    if pretend:
        module, _, name = pretend[0].partition(":")
        setattr(importlib.import_module(module), name, pretend[1])
    if store:
        stores = importlib.import_module("tests.object_store")
        _until_the_end.enter_context(stores.installed(Path(store)))
    if settle:
        _settle_saves()
    if call:
        _at_call(*call, strike)
    if write:
        _at_write(*write, strike)


def _count_operations(event: int | None, inside: str, count_in: str | None, strike: Any) -> None:
    lock, number = threading.Lock(), 0
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")

    def watch(name: str, details: tuple) -> None:
        nonlocal number
        if name not in changes and not (name == "open" and details[2] & os.O_ACCMODE):
            return
        path = details[0]
        # A name without a folder comes from the removal of a tree, which works by descriptors.
        if not isinstance(path, str | os.PathLike) or (
            Path(path).is_absolute() and not os.fspath(path).startswith(inside)
        ):
            return
        with lock:
            number += 1
            if number == event:
                strike()
        if count_in and "result.json" in os.fspath(path):
            os.write(os.open(count_in, os.O_RDWR | os.O_CREAT), str(number).encode())

    sys.addaudithook(watch)


def _settle_saves() -> None:
    from mmjax.checkpoint.store import CheckpointStore

    save = CheckpointStore.save

    def settled(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        self.wait()

    CheckpointStore.save = settled


def _at_call(path: str, number: int, strike: Any) -> None:
    module, _, name = path.partition(":")
    holder = importlib.import_module(module)
    *parents, name = name.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    function, calls = getattr(holder, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            strike()
        return function(*args, **kwargs)

    setattr(holder, name, wrapped)


def _at_write(part: str, number: int, share: float, strike: Any) -> None:
    from etils import epath

    calls = 0

    def torn(method: Any) -> Any:
        def write(self: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if part in os.fspath(self):
                calls += 1
                if calls == number:
                    method(self, data[: int(share * len(data))], *args, **kwargs)
                    strike()
            return method(self, data, *args, **kwargs)

        return write

    for kind in (type(epath.Path("/")), Path):
        for name in ("write_text", "write_bytes"):
            setattr(kind, name, torn(getattr(kind, name)))


if __name__ == "__main__":
    serve()
