"""The run's own record of its metrics: JSON lines in which no step is missing or told twice.

One folder, one file per process start and checkpoint interval, never touched again once the next
one is begun: nothing relies on append or rename, so it works on an object store. A checkpoint
remembers how many lines there were when it was saved; the start that continues from it says so in
its first line, and what earlier starts wrote beyond them does not count.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from etils import epath

from mmjax import storage


class MetricsLog:
    """Writes lines {"step": int, "values": {...}, "timing": {...}}.

    Values are a function of the run; timings are not, and stand apart so that two runs can be
    compared.

    Attributes:
      lines: that count so far, over all starts.
    """

    def __init__(self, folder: epath.PathLike, kept: int):
        """`kept`: lines of earlier starts that count; 0 for a run that begins."""
        self._folder = epath.Path(folder)
        self._part, self._text = 0, ""
        self.lines = kept
        with self._told():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._start = 1 + max((start for start, _, _ in _files(self._folder)), default=-1)
        self._put({"kept": kept})

    def write(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """One line, on disk when this returns. Raises UserError if it cannot be written."""
        self._put({"step": step, "values": values, "timing": timing})
        self.lines += 1

    def close_part(self) -> None:
        """Called before a checkpoint: a kill can cut off lines only of the file being written."""
        if self._text:
            self._part, self._text = self._part + 1, ""

    def _put(self, line: dict[str, Any]) -> None:
        self._text += json.dumps(line, sort_keys=True) + "\n"
        with self._told():
            storage.write_text(
                self._folder / f"{self._start:04d}-{self._part:06d}.jsonl", self._text
            )

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return storage.told(
            f"cannot write metrics in {self._folder}",
            "the run stopped; free space, and the same command continues",
        )


def read_metrics(folder: epath.PathLike) -> list[dict[str, Any]]:
    """Every line that counts, in the order of the run; a line cut off by a kill is no line."""
    lines: list[dict[str, Any]] = []
    for _, _, path in sorted(_files(epath.Path(folder))):
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if "kept" in line:
                del lines[line["kept"] :]
            else:
                lines.append(line)
    return lines


def _files(folder: epath.Path) -> list[tuple[int, int, epath.Path]]:
    found = []
    # In an object store a folder is there only when something is in it.
    for path in folder.iterdir() if folder.exists() else ():
        start, _, part = path.stem.partition("-")
        if path.suffix == ".jsonl" and start.isdigit() and part.isdigit():
            found.append((int(start), int(part), path))
    return found
