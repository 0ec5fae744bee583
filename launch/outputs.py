"""Writing to a terminal or a pipe that may have gone: a run is saved, and its machine deleted, also
where nobody reads about it any more.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import IO

STANDARD = (1, 2)


def write(text: str, stream: IO[str] | None = None) -> None:
    """Writes at once, to stderr by default; what cannot be written is lost."""
    stream = sys.stderr if stream is None else stream
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # What the stream still holds would fail again, at the latest at the end of the program.
        with contextlib.suppress(OSError):
            _to_null(stream.fileno())


def replace_dead() -> None:
    """Gives programs that are started now /dev/null for outputs that nobody reads any more."""
    for number in STANDARD:
        with contextlib.suppress(OSError):
            poll = select.poll()
            poll.register(number, 0)  # errors and hang-ups are told without being asked for
            if poll.poll(0):
                _to_null(number)


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, number)
    finally:
        os.close(null)
