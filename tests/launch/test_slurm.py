"""Slurm: the script that is submitted does what it promises, in a real shell."""

from __future__ import annotations

import os
import subprocess

import pytest

from launch import slurm

RUN = ["--workdir=/shared/runs/scan", "--", "--config=configs/intent.py:text=minilm", "--seed=a b"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def run(folder, *options):
    return ["run", "--name=scan", f"--folder={folder}", *options, *RUN]


def submitted(world):
    return next(call.stdin for call in world.recorded if call.argv[0] == "sbatch")


def execute(world, text, **environment):
    """Runs a batch script with a stand-in srun and scontrol; returns its exit code."""
    for program in ("srun", "scontrol"):
        world.add_program(program)
    environment = {**os.environ, "SLURM_JOB_ID": "7", **environment}
    argv = ["bash", "-c", text]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, env=environment, check=False).returncode


def test_one_process_per_gpu_with_time_to_save(world, launched, folder):
    code, _, said = launched(
        slurm, run(folder, "--nodes=2", "--gpus_per_node=8", "--time=1-00:00:00", "--relaunches=3")
    )
    assert (code, f"{folder}/scan.log" in said) == (0, True)
    lines = submitted(world).splitlines()
    assert lines[0] == "#!/bin/bash"
    for option in ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "time=1-00:00:00"):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --signal=TERM@300" in lines
    assert "#SBATCH --requeue" in lines
    assert execute(world, submitted(world)) == 0
    srun = next(call.argv for call in world.recorded if call.argv[0] == "srun")
    assert srun[-4:] == (
        *("--config=configs/intent.py:text=minilm", "--seed=a b"),
        *("--workdir=/shared/runs/scan", "--distributed=on"),
    )


@pytest.mark.parametrize(
    ("exit_code", "restarts", "stopped", "again"),
    [
        (75, 0, False, True),
        (69, 0, False, True),
        (75, 3, False, False),
        (75, 0, True, False),
        (1, 0, False, False),
    ],
    ids=["preempted", "lost a process", "used up", "stopped by hand", "failed"],
)
def test_a_job_queues_again_after_75_only(
    world, launched, folder, exit_code, restarts, stopped, again
):
    assert launched(slurm, run(folder, "--relaunches=3"))[0] == 0
    if stopped:
        (folder / "scan.stopped").touch()
    world.answer("srun", code=exit_code)
    code = execute(world, submitted(world), SLURM_RESTART_COUNT=str(restarts))
    assert code == exit_code
    assert bool(world.calls_of("scontrol requeue 7")) == again


def test_the_script_is_clean_shell(world, launched, folder, env_file, shellcheck):
    launched(slurm, run(folder, "--relaunches=3", f"--env_file={env_file}", "--account=a b"))
    shellcheck(submitted(world))


def test_a_job_of_that_name_is_left_alone(world, launched, folder):
    world.answer("squeue", "4711\n")
    code, _, said = launched(slurm, run(folder))
    assert (code, "job 4711 has the name scan already" in said) == (2, True)
    assert not world.calls_of("sbatch")


def test_setup_puts_one_commit_into_the_folder(world, launched, folder):
    code, out, _ = launched(slurm, ["setup", "--dry_run", f"--folder={folder}"])
    assert code == 0
    assert "code-0123456789ab.tar.gz" in out
    assert "worker.py setup --version=0123456789abcdef" in out
    assert "jax[cuda13]" in out


def test_stop_and_delete_do_not_queue_again(world, launched, folder):
    assert launched(slurm, ["stop", "--name=scan", f"--folder={folder}"])[0] == 0
    assert (folder / "scan.stopped").exists()
    # A job that waits in the queue ends too: no signal would reach it.
    pending, running = world.calls
    assert pending == "scancel --me --name=scan --state=PENDING"
    assert running == "scancel --me --name=scan --signal=TERM"
    assert launched(slurm, run(folder))[0] == 0
    assert not (folder / "scan.stopped").exists()
    assert launched(slurm, ["delete", "--name=scan", f"--folder={folder}"])[0] == 0
    assert world.calls[-1] == "scancel --me --name=scan"


def test_secrets_are_named_by_their_file_alone(world, launched, folder, env_file):
    assert launched(slurm, run(folder, f"--env_file={env_file}"))[0] == 0
    assert f"--env_file={env_file}" in submitted(world)
    assert "s3cr3t" not in repr(world.recorded)
