"""Many files from one server into a folder, in parallel; whatever ends it, it can go on.

A file gets its name when it is whole, so what is there is never asked for again. What the server
does not have is written to `missing.jsonl` and not asked for again either; delete that file to ask
once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from absl import logging

from mmjax.errors import UserError
from tfds_builders import http_get
from tfds_builders.http_get import Check, FailedError, GoneError, Limits
from tfds_builders.missing_files import MissingFiles

Outcome = int | GoneError | FailedError  # int: number of bytes
MISSING = "missing.jsonl"
_PART = ".part"


@dataclass(frozen=True)
class FetchReport:
    """What became of the files that were asked for.

    Attributes:
      had: number that was there before.
      fetched: number that came now; `bytes`: their size.
      missing: names that the server does not have, now or earlier.
      failed: (name, reason) of those that did not come this time.
      missing_list: file with the missing ones, their reasons and dates.
    """

    had: int
    fetched: int
    bytes: int
    missing: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    missing_list: Path

    def __str__(self) -> str:
        where = f" (see {self.missing_list})" if self.missing else ""
        return (
            f"{self.had:,} were there, {self.fetched:,} fetched ({self.bytes / 1e6:,.0f} MB), "
            f"{len(self.missing):,} missing at the server{where}, "
            f"{len(self.failed):,} failed"
        )


class _StoppedError(Exception):
    """In a thread: the download was given up."""


def fetch_files(
    addresses: Mapping[str, str],
    folder: Any,
    *,
    check: Check,
    remedy: str,
    parallel: int = 32,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    sleep: Callable[[float], None] | None = None,
    log_seconds: float = 10.0,
) -> FetchReport:
    """Fetches what is not there yet; one process at a time, others wait.

    Args:
      addresses: file's path below the folder ("train/a.jpg") -> where it comes from.
      check: raises ValueError for content that is not what was asked for.
      remedy: the last part of the error for a server that cannot be reached.
      parallel: number of connections.
      sleep: waits between two attempts; given by tests.
      log_seconds: between two lines on the progress.

    Raises:
      UserError: the server cannot be reached, or has none of the files; the folder cannot be
        written. Single files that fail are in the report instead.
    """
    folder = Path(folder)
    try:
        with _alone(folder):
            return _fetch(addresses, folder, check, remedy, parallel, limits, sleep, log_seconds)
    except OSError as error:  # the network's errors do not come this far
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); make room or rights there "
            "and give the same command again: it goes on where it was."
        ) from error


def files_below(folder: Path) -> Iterator[os.DirEntry]:
    """Files in the folder's subfolders, one level down; none where there is no folder."""
    if not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            with os.scandir(entry.path) as files:
                yield from (file for file in files if file.is_file())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The lock is the kernel's: it ends with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("Another process downloads into %s: waiting for it.", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(
    addresses: Mapping[str, str],
    folder: Path,
    check: Check,
    remedy: str,
    parallel: int,
    limits: Limits,
    sleep: Callable[[float], None] | None,
    log_seconds: float,
) -> FetchReport:
    there = _clean(folder)
    missing = MissingFiles(folder / MISSING, addresses, confirmed=bool(there))
    wanted = [name for name in addresses if name not in there and name not in missing.names]
    had = sum(name in there for name in addresses)
    tally = _Tally(len(wanted), max(100, 3 * parallel), log_seconds)
    stop = threading.Event()

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise _StoppedError

    def fetch(session: requests.Session, name: str, limits: Limits = limits) -> Outcome:
        if stop.is_set():
            raise _StoppedError
        try:
            body = http_get.get(
                session, addresses[name], check=check, limits=limits, sleep=sleep or pause
            )
        except (GoneError, FailedError) as outcome:
            return outcome
        if stop.is_set():
            raise _StoppedError
        _write(folder / name, body)
        return len(body)

    def first() -> Iterator[tuple[str, Outcome]]:
        """Two attempts decide whether there is a server at all: thousands would take hours."""
        with http_get.new_session() as session:
            outcome = fetch(session, wanted[0], dataclasses.replace(limits, tries=2))
        if not isinstance(outcome, FailedError):
            yield wanted.pop(0), outcome
        elif outcome.unreachable:
            address = addresses[wanted[0]]
            raise UserError(f"{address} cannot be reached ({outcome}); {remedy}") from outcome

    def outcomes() -> Iterator[tuple[str, Outcome]]:
        if wanted:
            logging.info("Fetching %s files into %s.", f"{len(wanted):,}", folder)
            yield from first()
            yield from _in_parallel(fetch, wanted, parallel)

    try:
        for name, outcome in outcomes():
            if isinstance(outcome, GoneError):
                missing.add(name, str(outcome))
            elif isinstance(outcome, int):
                missing.confirm()
            tally.add(name, outcome)
    finally:
        stop.set()
    missing.confirm()
    report = FetchReport(
        *(had, tally.fetched, tally.bytes),
        *(tuple(missing.names), tuple(tally.failed), missing.path),
    )
    if tally.wanted:
        logging.info("Files in %s: %s.", folder, report)
    return report


def _clean(folder: Path) -> set[str]:
    """Names of the whole files; what a killed process had begun is removed."""
    there = set()
    for entry in files_below(folder):
        if entry.name.endswith(_PART):
            Path(entry.path).unlink()
        else:
            there.add(os.path.relpath(entry.path, folder))
    return there


class _Tally:
    """Counts what came, says so now and then, and gives up when nothing comes any more."""

    def __init__(self, wanted: int, patience: int, log_seconds: float):
        self.wanted, self._patience, self._log_seconds = wanted, patience, log_seconds
        self.fetched = self.bytes = self.missing = self._failed_in_a_row = 0
        self.failed: list[tuple[str, str]] = []
        self._begun = self._said = time.monotonic()

    def add(self, name: str, outcome: Outcome) -> None:
        self._failed_in_a_row = (
            0 if not isinstance(outcome, FailedError) else (self._failed_in_a_row + 1)
        )
        if isinstance(outcome, int):
            self.fetched += 1
            self.bytes += outcome
        elif isinstance(outcome, GoneError):
            self.missing += 1
        else:
            self.failed.append((name, str(outcome)))
        if self._failed_in_a_row >= self._patience:
            raise UserError(
                f"The last {self._failed_in_a_row} files could not be fetched ({name}: {outcome}); "
                f"{self.fetched:,} came before. When the network is back, the same command goes on "
                "where it was."
            )
        now = time.monotonic()
        if now - self._said >= self._log_seconds:
            self._said = now
            logging.info(
                "%s of %s files fetched (%s MB), %s missing, %s failed, %.1f/s",
                *(f"{self.fetched:,}", f"{self.wanted:,}", f"{self.bytes / 1e6:,.0f}"),
                *(f"{self.missing:,}", f"{len(self.failed):,}"),
                self.fetched / (now - self._begun),
            )


def _in_parallel(
    work: Callable[[requests.Session, str], Outcome], names: Sequence[str], parallel: int
) -> Iterator[tuple[str, Outcome]]:
    """(name, outcome) as they come; the first exception is raised.

    The threads are daemons: nothing waits for a server's answer when the program ends.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, Outcome | BaseException]] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)

    def run() -> None:
        with http_get.new_session() as session, contextlib.suppress(queue.Empty):
            while True:
                name = waiting.get_nowait()
                try:
                    done.put((name, work(session, name)))
                except BaseException as error:
                    done.put((name, error))
                    return

    for _ in range(min(parallel, len(names))):
        threading.Thread(target=run, daemon=True).start()
    for _ in names:
        name, outcome = done.get()
        if isinstance(outcome, BaseException) and not isinstance(outcome, GoneError | FailedError):
            raise outcome
        yield name, outcome


def _write(path: Path, data: bytes) -> None:
    """The file appears under its name when all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{_PART}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
