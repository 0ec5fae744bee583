"""Runs of one command in several real processes on this machine, as a pod would run it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.end_to_end.driver import Driver

RUN = (
    "--config=configs/retrieval.py:demo",
    "--config.data.dataset=photo_folder",
    "--config.task.image.size=16",
    "--config.task.image.mirror=True",
    "--config.task.image.augment=crop",
    "--config.observe.tensorboard=False",
    "--config.observe.log_every_steps=1",
    "--config.model.vocab_size=400",
    "--config.train.global_batch_size=8",
    "--config.train.total_steps=8",
    "--config.train.total_epochs=None",
    "--config.eval.every_epochs=None",
    "--config.eval.every_steps=3",
    "--config.eval.batch_size=8",
    "--config.loader.threads=1",
    "--start_timeout=60",
)
WORDS = ["dog", "boat", "kite", "cake", "tree", "lamp", "bench", "fence", "bird", "house", "car"]


class Cluster:
    """The data, and runs on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = folder / "dialogues"
        self.data.mkdir()
        # Splits whose last evaluation batch is padded, some processes having nothing of it.
        for split, first, count in (("train", 0, 40), ("dev", 100, 18), ("test", 200, 9)):
            numbers = range(first, first + count)
            (self.data / f"{split}.jsonl").write_text("\n".join(map(_dialogue, numbers)))
            for number in numbers:
                pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3), np.uint8)
                Image.fromarray(pixels).save(self.data / f"{number}.png")
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # and one device
        }
        self._driver = Driver(cache)

    def run(
        self,
        name: str,
        count: int,
        *more: str,
        fates: dict[int, dict[str, Any]] | None = None,
        arguments: dict[int, list[str]] | None = None,
        only: int | None = None,
    ) -> list[int]:
        """The command in `count` processes to their ends; their exit codes.

        One that stops itself goes on when the others have ended.

        Args:
          fates: number of a process -> what becomes of it, see `tests.end_to_end.driver`.
          arguments: number of a process -> what its command has beside the others'.
          only: of the processes, this one alone is started.
        """
        address = f"127.0.0.1:{_free_port()}"
        numbers = range(count) if only is None else [only]
        started = []
        for number in numbers:
            variables = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(number),
            }
            command = [
                *RUN,
                f"--workdir={self.workdir(name)}",
                f"--config.data.manual_dir={self.data}",
                f"--config.data.data_dir={self.folder / 'prepared'}",
                *more,
                *(arguments or {}).get(number, []),
            ]
            log = self.folder / f"{name}.{number}.log"
            log.unlink(missing_ok=True)
            fate = (fates or {}).get(number, {})
            started.append(self._driver.start(command, log, variables, **fate))
        codes = {pid: self._driver.wait(pid) for pid in started}
        for pid in [pid for pid, code in codes.items() if code == -signal.SIGSTOP]:
            os.kill(pid, signal.SIGCONT)
            codes[pid] = self._driver.wait(pid)
        return list(codes.values())

    def workdir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def said(self, name: str, number: int = 0) -> str:
        """What a process printed."""
        return (self.folder / f"{name}.{number}.log").read_text()

    def sentence(self, name: str, number: int = 0) -> str:
        """What a process said of its end; it must have said it once."""
        (found,) = re.findall(r"^mmjax: (.*)$", self.said(name, number), re.MULTILINE)
        return found

    def close(self) -> None:
        self._driver.close()


def _dialogue(number: int) -> str:
    rng = np.random.default_rng(number)
    said = " ".join(rng.choice(WORDS, 6))
    labels = sorted(rng.choice(WORDS, 2, replace=False))
    turns = [
        {"speaker": 0, "text": f"look at the {said}"},
        {"speaker": 0, "photos": [{"file_name": f"{number}.png", "labels": labels}]},
    ]
    return json.dumps({"turns": turns})


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
