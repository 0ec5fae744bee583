"""Two processes are one run: the same batches and the same numbers as one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.observe.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
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
    "--config.train.total_steps=4",
    "--config.train.total_epochs=None",
    "--config.eval.every_epochs=None",
    "--config.eval.every_steps=2",
    "--config.eval.batch_size=8",
)
WORDS = [
    "dog",
    "boat",
    "kite",
    "cake",
    "tree",
    "lamp",
    "bench",
    "fence",
    "bird",
    "house",
    "car",
    "flower",
]


def dialogue(number: int) -> str:
    rng = np.random.default_rng(number)
    said = " ".join(rng.choice(WORDS, 6))
    labels = sorted(rng.choice(WORDS, 2, replace=False))
    turns = [
        {"speaker": 0, "text": f"look at the {said}"},
        {"speaker": 0, "photos": [{"file_name": f"{number}.png", "labels": labels}]},
    ]
    return json.dumps({"turns": turns})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Splits whose last evaluation batch is padded, one process having nothing of it."""
    folder = tmp_path_factory.mktemp("dialogues")
    for split, first, count in (("train", 0, 40), ("dev", 100, 18), ("test", 200, 9)):
        numbers = range(first, first + count)
        (folder / f"{split}.jsonl").write_text("\n".join(map(dialogue, numbers)))
        for number in numbers:
            pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def start(folder: Path, workdir: Path, mode: str, **environment: str) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "mmjax.main", *RUN, f"--workdir={workdir}"),
        *(f"--distributed={mode}", f"--config.data.manual_dir={folder}"),
        f"--config.data.data_dir={folder.parent / 'prepared'}",
    ]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]


def test_two_processes_train_and_score_as_one(folder, tmp_path):
    finish(start(folder, tmp_path / "one", "off"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{s.getsockname()[1]}"
    two = [
        start(
            folder,
            tmp_path / "two",
            "on",
            JAX_COORDINATOR_ADDRESS=coordinator,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    for process in two:
        finish(process)
    one, both = (read_metrics(tmp_path / name / "metrics") for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in both]
    assert len(one) == 4 + 3  # steps, and evaluations at 0, 2 and 4
    for a, b in zip(one, both, strict=True):
        assert a["values"].keys() == b["values"].keys()
        for name, value in a["values"].items():
            assert b["values"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), (a["step"], name)
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two")]
    assert results[1]["device"]["processes"] == 2
    assert results[0]["metrics"]["test"] == pytest.approx(results[1]["metrics"]["test"], rel=1e-4)
