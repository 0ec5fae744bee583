"""The run's own record of its metrics: JSON lines in which no step is missing or told twice.

One folder, one file per process start and checkpoint interval, never touched again once the next
one is begun: nothing relies on append or rename, so it works on an object store. A start that
continues at step s takes over from there: what earlier starts wrote beyond s is not read.
"""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from mmjax.errors import UserError


class MetricsLog:
    """Writes lines {"step": int, "values": {...}, "timing": {...}}.

    Values are a function of the run; timings are not, and stand apart so that two runs can be
    compared.
    """

    def __init__(self, folder: epath.PathLike, resumed_from: int):
        """`resumed_from`: step of the checkpoint this start continues; -1: there is none."""
        self._folder = epath.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._start = 1 + max((start for start, _, _ in _files(self._folder)), default=-1)
        self._part = 0
        self._lines: list[str] = []
        self._put({"resumed_from": resumed_from})

    def write(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """One line, on disk when this returns."""
        self._put({"step": step, "values": values, "timing": timing})

    def close_part(self) -> None:
        """Called before a checkpoint: the lines so far are never rewritten."""
        if self._lines:
            self._lines, self._part = [], self._part + 1

    def _put(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, sort_keys=True))
        path = self._folder / f"{self._start:04d}-{self._part:06d}.jsonl"
        try:
            path.write_text("".join(f"{text}\n" for text in self._lines))
        except OSError as error:
            raise UserError(
                f"cannot write metrics to {path} ({error.strerror or error}): the run stopped; "
                "free space, and the same command continues."
            ) from error


def read_metrics(folder: epath.PathLike) -> list[dict[str, Any]]:
    """Every line that counts, by step; a line cut off by a kill is no line."""
    kept: list[dict[str, Any]] = []
    for _, _, path in sorted(_files(epath.Path(folder))):
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if "resumed_from" in line:
                kept = [k for k in kept if k["step"] <= line["resumed_from"]]
            else:
                kept.append(line)
    return kept


def _files(folder: epath.Path) -> list[tuple[int, int, epath.Path]]:
    found = []
    for path in folder.iterdir():
        start, _, part = path.stem.partition("-")
        if path.suffix == ".jsonl" and start.isdigit() and part.isdigit():
            found.append((int(start), int(part), path))
    return found
