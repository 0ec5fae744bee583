"""A contender in a process of its own: the threads and the memory of one slow down another."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from benchmarks.contenders import Run
from mmjax.errors import UserError


class Apart:
    """One contender in a process of its own, which is asked to run a part and says when it has.

    It holds one part at a time, so that the memory of four networks suffices for all of them.
    """

    def __init__(self, make: Callable[[str], Run]):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def run(self, name: str, times: int) -> None:
        """Raises UserError where the process has ended."""
        try:
            self._pipe.send((name, times))
            self._pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError("a contender's process has ended: see its message above.") from error


def _serve(make: Callable[[str], Run], pipe: Connection) -> None:
    part, run = None, None
    while True:
        try:
            name, times = pipe.recv()
        except EOFError:
            return
        if name != part:
            run = None  # its memory is free before the next one needs it
            part, run = name, make(name)
        for _ in range(times):
            run()
        pipe.send(None)
