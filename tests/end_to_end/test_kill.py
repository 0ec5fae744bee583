"""A run that was killed and goes on is bit for bit the run that was never killed.

Real processes, real SIGKILL. Where they die is counted in calls and file operations, never in time.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mmjax.checkpoint.store import CheckpointStore
from mmjax.observe.metrics_log import read_metrics
from tests.end_to_end.driver import Driver

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")

VARIANTS = ("", ":ema")
KILLED = -signal.SIGKILL
STORE = "mmjax.checkpoint.store"


class Lab:
    """Runs of the shrunk demo, one line of them per variant."""

    def __init__(self, folder: Path):
        self.folder = folder
        # Compiled once: the kills are what is tried here.
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self._drivers = {variant: Driver(cache) for variant in VARIANTS}
        self.operations: dict[str, int] = {}
        self.undisturbed: dict[str, dict[str, Any]] = {}

    def start(self, name: str, variant: str, *more: str, data: str = "data", **fate: Any) -> int:
        arguments = [
            f"--config=tests/end_to_end/tiny_config.py{variant}",
            f"--workdir={self.workdir(name)}",
            f"--config.data.data_dir={self.folder / data}",
            *more,
        ]
        if "event" in fate or "count_in" in fate:
            fate["inside"] = str(self.workdir(name))
        return self._drivers[variant].start(arguments, self.log(name), **fate)

    def wait(self, variant: str, pid: int) -> int:
        return self._drivers[variant].wait(pid)

    def run(self, name: str, variant: str, *more: str, **fate: Any) -> int:
        return self.wait(variant, self.start(name, variant, *more, **fate))

    def workdir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def run_undisturbed(self, variant: str) -> None:
        name = f"undisturbed{variant[1:]}"
        count = self.folder / f"{name}.count"
        assert self.run(name, variant, count_in=str(count)) == 0, self.log(name).read_text()
        self.operations[variant] = int(count.read_text())
        self.undisturbed[variant] = outcome(self.workdir(name))

    def finish(self, name: str, variant: str, **options: Any) -> None:
        """Lets the run go to its end and compares it with the undisturbed one."""
        assert self.run(name, variant, **options) == 0, self.log(name).read_text()
        assert_same(outcome(self.workdir(name)), self.undisturbed[variant])

    def close(self) -> None:
        for driver in self._drivers.values():
            driver.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("kill"))
    try:
        in_parallel(lab.run_undisturbed, [(variant,) for variant in VARIANTS])
        yield lab
    finally:
        lab.close()


def test_two_undisturbed_runs_are_equal_and_the_metrics_complete(lab):
    lab.finish("again", "")
    lines = lab.undisturbed[""]["metrics"]
    steps = {kind: [step for step, k, _ in lines if k == kind] for kind in ("train", "dev")}
    assert steps == {"train": list(range(3, 25, 3)), "dev": [0, 6, 12, 18, 24]}
    # The run is over: the same command only judges the best state again.
    before = tree_of_files(lab.workdir("again"), "checkpoints", "best")
    lab.finish("again", "")
    assert tree_of_files(lab.workdir("again"), "checkpoints", "best") == before


# What kills the run, and the newest checkpoint that counts afterwards. In the order of a run.
WHILE_IT_BEGINS = [
    ("the config half written", {"write": ("config.json", 1, 0.5)}, None),
    ("the tokenizer fitted, not yet there", {"call": ("mmjax.storage:_copy", 1)}, None),
    ("the index half written", {"write": ("index/", 1, 0.5)}, None),
    ("its digest half written", {"write": (".sha256", 1, 0.5)}, None),
    ("the first line of metrics half written", {"write": ("metrics/", 2, 0.7)}, None),
    ("before the first save", {"call": (f"{STORE}:CheckpointStore.save", 2)}, None),
    ("while arrays are written", {"call": (f"{STORE}:CheckpointStore._finish", 2)}, None),
    ("arrays written, no manifest", {"call": (f"{STORE}:_digests", 2)}, None),
    ("the manifest half written", {"write": ("checkpoints/4/manifest.json", 1, 0.5)}, None),
    (
        "between save and evaluation",
        {"call": ("mmjax.network:NetworkSystem._evaluate_state", 2)},
        4,
    ),
]
WHILE_IT_GOES_ON = [
    ("before the second save", {"call": (f"{STORE}:CheckpointStore.save", 4)}, 4),
    ("evaluated, the best not saved", {"call": (f"{STORE}:CheckpointStore.save", 1)}, 4),
    ("the best half saved", {"write": ("best/6/manifest.json", 1, 0.5)}, 4),
    ("the best saved, not the state", {"call": (f"{STORE}:CheckpointStore.save", 2)}, 4),
    ("metrics emptied while rewritten", {"write": ("metrics/", 2, 0.0)}, 4),
    ("a later part of metrics cut", {"write": ("-000001.jsonl", 2, 0.7)}, 8),
    ("saved, the oldest not removed", {"call": (f"{STORE}:_remove", 1)}, 12),
    ("the oldest half removed", {"call": ("shutil:rmtree", 1)}, 16),
    ("the artifact half written", {"write": ("weights.safetensors", 1, 0.5)}, 24),
    ("all saved, test not looked at", {"call": ("mmjax.workdir:WorkDir.look_at_test", 1)}, 24),
    ("the look half entered", {"write": ("test_looks/", 1, 0.5)}, 24),
    ("the ranks half written", {"write": ("per_example.json", 1, 0.5)}, 24),
    ("the result half written", {"write": ("result.json", 1, 0.5)}, 24),
]


def test_named_points(lab):
    # An index of its own, so that it is written while the run begins.
    shutil.copytree(lab.folder / "data" / "photochat", lab.folder / "bare" / "photochat")
    jobs = [("begins", "", WHILE_IT_BEGINS, "bare"), ("goes_on", ":ema", WHILE_IT_GOES_ON, "data")]

    def chain(name: str, variant: str, points: list, data: str) -> None:
        for what, fate, newest in points:
            assert lab.run(name, variant, data=data, settle=True, **fate) == KILLED, what
            assert CheckpointStore(lab.workdir(name) / "checkpoints").latest() == newest, what
        lab.finish(name, variant, data=data)

    in_parallel(chain, jobs)


def test_twenty_random_kills(lab):
    def chain(variant: str, seed: int) -> None:
        chance, kills, number = random.Random(seed), 0, 0
        while kills < 10:
            name = f"random{variant[1:]}{number}"
            event = chance.randint(1, lab.operations[variant] // 2)
            code = lab.run(name, variant, event=event)
            assert code in (KILLED, 0), lab.log(name).read_text()
            if code == KILLED:
                kills += 1
            else:  # it came to its end before the blow
                assert_same(outcome(lab.workdir(name)), lab.undisturbed[variant])
                number += 1
        lab.finish(name, variant)

    in_parallel(chain, [("", 1), (":ema", 2)])


def test_asked_to_stop_it_saves_and_goes_on(lab):
    def chain(variant: str, sign: str) -> None:
        name = f"asked_{sign}"
        # The second line of a new run is the evaluation before its first step.
        for line, earliest in ((2, 0), (3, 3)):
            code = lab.run(name, variant, write=("metrics/", line, 1.0), sign=sign)
            assert code == 75, lab.log(name).read_text()
            assert CheckpointStore(lab.workdir(name) / "checkpoints").latest() >= earliest
        assert len(re.findall("the same command continues", lab.log(name).read_text())) == 2
        lab.finish(name, variant)

    in_parallel(chain, [("", "SIGTERM"), (":ema", "SIGINT")])


def test_others_leave_a_run_alone(lab):
    """In the middle of a save a second run is refused, and an evaluation reads what is whole."""
    pid = lab.start("busy", "", call=(f"{STORE}:_digests", 4), sign="SIGSTOP")
    assert lab.wait("", pid) == -signal.SIGSTOP
    found = tree_of_files(lab.workdir("busy"), "checkpoints", "best", "metrics")
    shutil.move(lab.log("busy"), lab.folder / "first.log")
    try:
        assert lab.run("busy", "") == 2
        said = [x for x in lab.log("busy").read_text().splitlines() if not x[:2].isdigit()]
        assert len(said) == 1 and "another run is working in" in said[0]
        assert lab.run("busy", "", "--mode=eval") == 0
        assert tree_of_files(lab.workdir("busy"), "checkpoints", "best", "metrics") == found
    finally:
        os.kill(pid, signal.SIGCONT)
    assert lab.wait("", pid) == 0
    assert_same(outcome(lab.workdir("busy")), lab.undisturbed[""])


def test_in_an_object_store_it_is_the_same_run(lab):
    """Killed in the middle of a save, its lease is stale when the next one comes."""
    options = {"store": str(lab.folder / "store"), "pretend": ("mmjax.lease:STALE_AFTER", 0.6)}
    place = "--workdir=gs://bucket/run"
    assert lab.run("stored", "", place, call=(f"{STORE}:_digests", 3), **options) == KILLED
    assert lab.run("stored", "", place, **options) == 0, lab.log("stored").read_text()
    assert "is gone: taking over" in lab.log("stored").read_text()
    assert_same(outcome(lab.folder / "store" / "run"), lab.undisturbed[""])
    assert not (lab.folder / "store" / "run" / ".lease").exists()
    assert lab.run("stored", "", place, "--mode=eval", **options) == 0


def outcome(workdir: Path) -> dict[str, Any]:
    """All that a run is, without what depends on time."""
    result = json.loads((workdir / "result.json").read_text())
    checkpoint = saved(workdir / "checkpoints" / "24")
    del checkpoint["host"]["seconds"]
    metrics = []
    for line in read_metrics(workdir / "metrics"):
        (kind,) = {name.partition("/")[0] for name in line["values"]}
        metrics.append((line["step"], kind, line["values"]))
    return {
        "last": checkpoint,
        "best": saved(workdir / "best" / str(checkpoint["host"]["best_step"])),
        "metrics": metrics,
        "result": {name: result[name] for name in ("metrics", "intervals", "steps")},
        "ranks": json.loads((workdir / "per_example.json").read_text()),
        "artifact": (workdir / "artifact" / "weights.safetensors").read_bytes(),
    }


def saved(folder: Path) -> dict[str, Any]:
    tree = ocp.PyTreeCheckpointer().restore(folder / "arrays")
    arrays = {name: np.asarray(x) for name, x in flat(tree)}
    return {"arrays": arrays, "host": json.loads((folder / "host.json").read_text())["host"]}


def flat(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [x for name in tree for x in flat(tree[name], f"{path}/{name}")]
    if isinstance(tree, list | tuple):
        return [x for i, item in enumerate(tree) for x in flat(item, f"{path}/{i}")]
    return [] if tree is None else [(path, tree)]


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for part in ("metrics", "result", "ranks", "artifact"):
        assert found[part] == wanted[part], part
    for part in ("last", "best"):
        assert found[part]["host"] == wanted[part]["host"], part
        assert found[part]["arrays"].keys() == wanted[part]["arrays"].keys()
        for name, array in wanted[part]["arrays"].items():
            other = found[part]["arrays"][name]
            assert (other.dtype, other.shape) == (array.dtype, array.shape), name
            assert other.tobytes() == array.tobytes(), f"{part}{name} differs"


def tree_of_files(workdir: Path, *folders: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for folder in folders
        for path in sorted((workdir / folder).rglob("*"))
        if path.is_file()
    }


def in_parallel(function: Any, jobs: list[tuple]) -> None:
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(function, *job) for job in jobs]:
            future.result()
