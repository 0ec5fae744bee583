"""What a set of files holds, without preparing it: by content, or by size and time where large."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Some ten seconds of reading on a plain disk: it is spent at every start of a run.
EXACT_BYTES = 4 * 2**30
_BLOCK = 2**20
_TOGETHER = 100


@dataclass(frozen=True)
class FileDigests:
    """`of`: name -> SHA-256 where `exact`, else size and time of the last change."""

    of: Mapping[str, str]
    exact: bool


def file_digests(files: Mapping[str, Path], exact_bytes: int = EXACT_BYTES) -> FileDigests:
    """Digests of files; exact where they have no more than `exact_bytes` in all.

    A file that cannot be read has a digest that says so: whoever needs it will complain.
    """
    keys = {name: _size_and_time(path) for name, path in files.items()}
    if sum(size for _, size, _ in keys.values()) > exact_bytes:
        return FileDigests(
            {name: f"{size} {time}" for name, (_, size, time) in keys.items()}, False
        )
    names = list(keys)
    # A task per file would cost more than a small file does.
    parts = [names[k : k + _TOGETHER] for k in range(0, len(names), _TOGETHER)]
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda part: {name: _digest(keys[name]) for name in part}, parts)
        return FileDigests(dict(itertools.chain(*(part.items() for part in digests))), True)


def _size_and_time(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
        return os.fspath(path), stat.st_size, stat.st_mtime_ns
    except OSError:
        return os.fspath(path), 0, 0


def _digest(key: tuple[str, int, int]) -> str:
    try:
        return _sha256(*key)
    except OSError as error:
        return f"unreadable: {error.strerror}"


@functools.cache  # a process opens each split of a dataset
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - maybe a hundred thousand times
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
