"""`--dry_run` prints what would be executed, as shell that can be pasted, and executes nothing.

The golden files are what a person reads before paying for it. After a change that is meant:
`UPDATE_GOLDEN=1 python -m pytest tests/launch/test_dry_run.py`, and read the difference.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launch import gke, local, queued, slurm, tpu_vm, xpk

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[2]
CLOUD = ["--project=my-project", "--zone=us-west4-a", "--accelerator=v5litepod-16"]
IMAGE = "--image=us-docker.pkg.dev/my-project/images/mmjax"
RUN = ["--relaunches=20", "--workdir=gs://bucket/scan", "--", "--config=configs/retrieval.py:demo"]
SLICE = {
    verb: [verb, *CLOUD] for verb in ("create", "setup", "logs", "status", "stop", "delete")
} | {verb: [verb, *CLOUD, "--spot", *RUN] for verb in ("train", "run")}
CLUSTER = {verb: [verb, *CLOUD, IMAGE] for verb in ("setup", "logs", "status", "stop", "delete")}
CLUSTER |= {"run": ["run", *CLOUD, IMAGE, *RUN]}
ON_SLURM = {
    verb: [verb, "--folder=/shared/scan"] for verb in ("setup", "logs", "status", "stop", "delete")
} | {"run": ["run", "--folder=/shared/scan", "--nodes=2", "--gpus_per_node=8", *RUN]}
TARGETS = {
    tpu_vm: SLICE,
    queued: SLICE,
    gke: CLUSTER,
    xpk: {verb: [argv[0], "--cluster=tpus", *argv[1:]] for verb, argv in CLUSTER.items()},
    slurm: ON_SLURM,
    local: {"run": ["run", "--platform=cpu", "--workdir=r", "--", "--config=configs/intent.py"]},
}


def printed(world, launched, tmp_path, module):
    """What all verbs of a target print, with this machine's paths taken out."""
    parts = []
    for verb, argv in TARGETS[module].items():
        code, out, said = launched(module, [argv[0], "--name=scan", "--dry_run", *argv[1:]])
        assert (code, said) == (0, ""), verb
        parts.append(f"# {module.__name__.rpartition('.')[2]} {verb}\n{out}")
    assert world.calls == []
    text = "\n".join(parts)
    for path, shown in ((tmp_path, "/cache"), (sys.executable, "python"), (ROOT, "/mmjax")):
        text = text.replace(str(path), shown)
    return text


@pytest.mark.parametrize("module", TARGETS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_a_dry_run_prints_what_was_agreed_and_executes_nothing(world, launched, tmp_path, module):
    text = printed(world, launched, tmp_path, module)
    golden = GOLDEN / f"{module.__name__.rpartition('.')[2]}.sh"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.sh")), ids=lambda g: g.stem)
def test_what_is_printed_is_clean_shell(golden, shellcheck):
    shellcheck(golden.read_text())


def test_a_dry_run_is_what_is_then_executed(world, launched):
    """The commands of a dry run, in order, are those of a run in which all goes well."""
    argv = SLICE["train"]
    _, out, _ = launched(tpu_vm, [argv[0], "--dry_run", *argv[1:]])
    promised = [line for line in out.splitlines() if not line.startswith("#")]
    record = 'STATUS {"host": "w", "state": "exited", "code": 0, "stopped": false}\n'
    world.answer(r"worker\.py status", record * 4)
    assert launched(tpu_vm, argv)[0] == 0
    executed = [call for call in world.calls if "--begin" not in call]
    assert executed == promised
