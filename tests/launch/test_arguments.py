"""Bad input is one sentence and exit code 2, and the slices are what Google says they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch import gke, local, queued, slurm, sweep, tpu_vm, xpk
from launch.accelerators import parse_slice

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "--name": "scan",
    "--project": "my-project",
    "--zone": "us-west4-a",
    "--accelerator": "v5litepod-16",
    "--workdir": "gs://bucket/scan",
}


def arguments(verb="train", behind=("--config=configs/retrieval.py",), **changed):
    given = {**GOOD, **{f"--{k}": v for k, v in changed.items()}}
    return [verb, *(f"{k}={v}" for k, v in given.items() if v is not None), "--", *behind]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (arguments(name="Scan_1"), "--name='Scan_1' is not small letters"),
        (arguments(zone="us-west4"), "--zone='us-west4' is not a zone"),
        (arguments(project="My Project"), "is not a project id"),
        (arguments(project=None, zone=None), "needs --project and --zone."),
        (arguments(accelerator=None), "train needs --accelerator."),
        (arguments(accelerator="v5e:4x4"), "not of the form GENERATION-SIZE"),
        (arguments(accelerator="v5p-12"), "sizes of v5p are multiples of 8"),
        (arguments(accelerator="v5lite-16"), '(did you mean "v5litepod"?)'),
        (arguments(accelerator="v5e-16"), "Google calls it v5litepod-16"),
        (arguments(accelerator="v6e-12"), "v6e comes in the sizes 1, 4, 8"),
        (arguments(workdir="runs/scan"), "has 4 hosts that share it, so it must be in a bucket"),
        (arguments(workdir="runs/x", accelerator="v6e-8"), "its disk with it, so it must be in a"),
        (arguments(workdir=None), "train needs --workdir."),
        (arguments(relaunches=-1), "--relaunches=-1 must be at least 0"),
        (arguments(slices=0), "--slices=0 must be at least 1"),
        (arguments(slices=2), "`launch.gke` and `launch.xpk` run on several"),
        (arguments(slices=2, accelerator="v6e-8"), "v6e-8 is one host"),
        (arguments(relaunches="many"), "invalid int value"),
        (arguments(behind=()), "stands behind `--`"),
        (arguments(behind=("--config=a.py", "--workdir=x")), "belongs before the `--`"),
        (arguments(behind=("--config=a.py", "--wandb_api_key=1")), "looks like a secret"),
        (arguments(verb="fly"), "invalid choice: 'fly'"),
        (arguments(env_file="/nowhere"), "--env_file=/nowhere cannot be read"),
        ([*arguments()[:1], "--detach", *arguments()[1:]], "--detach is for `run`"),
        (arguments(worker="first"), "is not the number of a worker"),
        (arguments(colour="red"), "unrecognized arguments: --colour=red"),
    ],
)
def test_bad_arguments_are_one_sentence(world, launched, argv, sentence):
    code, _, said = launched(tpu_vm, argv)
    assert code == 2
    assert sentence in said
    assert said.count("\n") == 1
    assert world.calls == []


@pytest.mark.parametrize(
    ("module", "argv", "sentence"),
    [
        (gke, arguments("run"), "run needs --image="),
        (gke, arguments("run", image="eu.io/p/r/mmjax:latest"), "has a tag"),
        (gke, arguments("run", image="x/y", accelerator="v3-32"), "does not exist in GKE"),
        (gke, arguments("run", image="x/y", accelerator="v5p-24"), "choose a power of two"),
        (xpk, arguments("run", image="x/y"), "run needs --cluster="),
        (slurm, ["run", "--workdir=/r", "--", "--config=a.py"], "--folder=/... is needed"),
        (slurm, ["status", "--folder=shared"], "--folder=/... is needed"),
        (slurm, ["run", "--folder=/f", "--workdir=r", "--", "--config=a.py"], "a full path"),
        (slurm, ["status", "--folder=/f", "--nodes=0"], "--nodes=0 must be at least 1"),
        (slurm, ["status", "--folder=/f", "--time=tomorrow"], "--time=tomorrow is not"),
        (sweep, ["--sweep=nowhere.json", "--workdir=r"], "there is no such file"),
        (sweep, ["--sweep=x", "--workdir=r", "--jobs=0"], "--jobs=0 must be at least 1"),
        (sweep, ["--sweep=x", "--workdir=r", "--spot"], "--spot is not known here"),
    ],
)
def test_bad_arguments_of_one_target_are_one_sentence(world, launched, module, argv, sentence):
    code, _, said = launched(module, argv)
    assert code == 2
    assert sentence in said
    assert world.calls == []


@pytest.mark.parametrize(
    ("devices", "options", "sentence"),
    [
        (["accel0"], ["--processes=2"], "a TPU's chips belong to one process"),
        (["vfio/0"], ["--processes=2"], "a TPU's chips belong to one process"),
        (["nvidia0", "nvidiactl"], ["--processes=2"], "1 GPUs of this machine cannot be shared"),
        ([], ["--processes=0"], "--processes=0 must be at least 1"),
        ([], ["--code=worktree"], "--code is for other machines"),
    ],
)
def test_processes_that_cannot_share_a_machine_are_refused(
    tmp_path, monkeypatch, capsys, devices, options, sentence
):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for device in devices:
        (tmp_path / device).parent.mkdir(exist_ok=True)
        (tmp_path / device).touch()
    argv = ["run", *options, "--workdir=r", "--dry_run", "--", "--config=a.py"]
    with pytest.raises(Exception, match=sentence):
        local.main(argv, dev=tmp_path)


def test_gpus_are_shared_out(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for device in ("nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl"):
        (tmp_path / device).touch()
    local.main(["run", "--workdir=r", "--dry_run", "--", "--config=a.py"], dev=tmp_path)
    out = capsys.readouterr().out
    assert "CUDA_VISIBLE_DEVICES=0,1 " in out
    assert "CUDA_VISIBLE_DEVICES=2,10 " in out


def test_a_secret_that_others_can_read_is_refused(world, launched, env_file):
    env_file.chmod(0o644)
    code, _, said = launched(queued, arguments(env_file=env_file))
    assert code == 2
    assert f"chmod 600 {env_file}" in said
    env_file.chmod(0o600)
    env_file.write_text("GOOD=1\nexport KEY=s3cr3t\n")
    code, _, said = launched(queued, arguments(env_file=env_file))
    assert (code, "line 2 is not of the form" in said, "s3cr3t" in said) == (2, True, False)


def test_a_launcher_is_a_command():
    argv = [sys.executable, "-m", "launch.tpu_vm", "status", "--zone=us-west4-a"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "launch: status needs --project.\n"


@pytest.mark.parametrize(
    ("text", "chips", "hosts", "topology"),
    [
        # "TPU v5e", "TPU v6e", "TPU v4", "TPU v5p" in Google's documentation.
        ("v5litepod-1", 1, 1, "1x1"),
        ("v5litepod-4", 4, 1, "2x2"),
        ("v5litepod-8", 8, 1, "2x4"),
        ("v5litepod-16", 16, 4, "4x4"),
        ("v6e-32", 32, 8, "4x8"),
        ("v6e-256", 256, 64, "16x16"),
        ("v4-8", 4, 1, "2x2x1"),
        ("v4-16", 8, 2, "2x2x2"),
        ("v4-32", 16, 4, "2x2x4"),
        ("v5p-64", 32, 8, "2x4x4"),
        ("v5p-128", 64, 16, "4x4x4"),
        ("v5p-256", 128, 32, "4x4x8"),
        ("v3-8", 4, 1, "2x2"),
        ("v3-32", 16, 4, "4x4"),
    ],
)
def test_slices_have_googles_sizes(text, chips, hosts, topology):
    found = parse_slice(text)
    assert (found.chips, found.hosts, found.topology) == (chips, hosts, topology)
