"""GPUs of a Slurm cluster, one process per GPU.

    python -m launch.slurm setup --name=scan --folder=/shared/me/scan
    python -m launch.slurm run --name=scan --folder=/shared/me/scan --nodes=2 --gpus_per_node=8 \\
        --time=24:00:00 --relaunches=20 --workdir=/shared/me/runs/scan -- --config=...

The folder, seen by all nodes, holds the code, the packages and the log. A job that was preempted or
ran out of time has saved its state and puts itself back into the queue. Verbs: `setup`, `run`
(submits), `logs`, `status`, `stop` (saves first; `run` continues) and `delete`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

from launch import code as code_lib
from launch.arguments import Job, guarded, parse
from launch.commands import Commands
from launch.exit_codes import AGAIN, DONE
from mmjax.errors import UserError

VERBS = ("setup", "run", "logs", "status", "stop", "delete")
# Before the time limit: a checkpoint is written in it.
SAVE_SECONDS = 300


def main(argv: Sequence[str]) -> int:
    job = parse(
        *("slurm", "Runs mmjax on GPUs of a Slurm cluster.", VERBS, argv, _add_arguments),
        cloud=False,
        tpu=False,
    )
    _check(job)
    commands = Commands(job.dry_run)
    mine = ["--me", f"--name={job.name}"]
    if job.verb == "setup":
        _setup(job, commands)
    elif job.verb == "run":
        _run(job, commands)
    elif job.verb == "logs":
        commands.run(["tail", "--lines=200", "--follow", _log(job)])
    elif job.verb == "status":
        commands.run(["squeue", *mine, "--format=%i %T %M %l %R"])
    else:
        # The job must not put itself back into the queue.
        commands.run(["touch", _stopped(job)])
        if job.verb == "stop":
            # A signal does nothing to a job that waits, and that has nothing to save.
            commands.run(["scancel", *mine, "--state=PENDING"])
            commands.run(["scancel", *mine, "--signal=TERM"])
        else:
            commands.run(["scancel", *mine])
    return DONE


def script(job: Job, code: code_lib.Code) -> str:
    """The batch script; `sbatch` reads it from its standard input."""
    folder = PurePosixPath(job.options.folder)
    python = str(folder / "venv" / "bin" / "python")
    secrets = [f"--env_file={job.env_file.absolute()}"] if job.env_file else []
    run = [
        # One that has saved and left (75) must not take the others with it while they save.
        *("srun", "--kill-on-bad-exit=0", f"--chdir={folder / f'code-{code.version[:12]}'}"),
        *(python, str(folder / "worker.py"), "exec", *secrets, "--"),
        *(python, "-m", "mmjax.main", *job.command, "--distributed=on"),
    ]
    options = job.options
    header = [
        f"--job-name={job.name}",
        f"--nodes={options.nodes}",
        f"--gpus-per-node={options.gpus_per_node}",
        f"--ntasks-per-node={options.gpus_per_node}",
        f"--time={options.time}",
        f"--output={_log(job)}",
        "--open-mode=append",
        f"--signal=TERM@{SAVE_SECONDS}",
        "--requeue" if job.relaunches else "--no-requeue",
        *([f"--partition={options.partition}"] if options.partition else []),
        *([f"--account={options.account}"] if options.account else []),
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in header),
            "# This shell waits until mmjax has saved, whatever it is told meanwhile.",
            "trap : TERM",
            shlex.join(run),
            "code=$?",
            f'case "$code" in {"|".join(map(str, AGAIN))})',
            f"  if [ ! -e {shlex.quote(_stopped(job))} ] &&",
            f'    [ "${{SLURM_RESTART_COUNT:-0}}" -lt {job.relaunches} ]; then',
            '    scontrol requeue "$SLURM_JOB_ID"',
            "  fi",
            "esac",
            'exit "$code"',
            "",
        ]
    )


def _setup(job: Job, commands: Commands) -> None:
    """Puts the code and the packages into the folder; all nodes see the same ones."""
    code = code_lib.pin(job.code)
    code_lib.warn_of_changes(job.code, commands)
    code_lib.pack(code, commands)
    folder, worker = job.options.folder, code_lib.ROOT / "launch" / "worker.py"
    commands.run(["mkdir", "-p", folder])
    commands.run(["cp", str(code.archive), str(worker), folder])
    setup = ["setup", f"--version={code.version}", "--requirement=jax[cuda13]"]
    commands.run(["python3", f"{folder}/worker.py", *setup])


def _run(job: Job, commands: Commands) -> None:
    queued = commands.ask(["squeue", "--me", f"--name={job.name}", "--noheader", "--format=%i"])
    if queued.strip():
        raise UserError(
            f"job {queued.split()[0]} has the name {job.name} already: `status` shows it, `stop` "
            "ends it, or choose another --name."
        )
    commands.run(["rm", "-f", _stopped(job)])
    commands.run(["sbatch", "--parsable"], stdin=script(job, code_lib.pin(job.code)))
    commands.say(f"the log will be {_log(job)}")


def _check(job: Job) -> None:
    options = job.options
    if not (options.folder or "").startswith("/"):
        raise UserError("--folder=/... is needed: a folder that all nodes see, for code and log.")
    if job.verb == "run" and not job.workdir.startswith(("/", "gs://")):
        raise UserError(f"--workdir={job.workdir} must be a full path, or gs://BUCKET/FOLDER.")
    for name in ("nodes", "gpus_per_node"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)} must be at least 1.")
    if not re.fullmatch(r"(\d+-)?\d+(:\d\d){0,2}", options.time):
        raise UserError(f"--time={options.time} is not of the form [DAYS-]HH:MM:SS.")


def _log(job: Job) -> str:
    return f"{job.options.folder}/{job.name}.log"


def _stopped(job: Job) -> str:
    return f"{job.options.folder}/{job.name}.stopped"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", help="seen by all nodes: code, packages and log")
    parser.add_argument("--nodes", type=int, default=1, help="machines; default: 1")
    parser.add_argument("--gpus_per_node", type=int, default=1, help="default: 1")
    parser.add_argument("--time", default="24:00:00", help="limit, [DAYS-]HH:MM:SS")
    parser.add_argument("--partition", help="of the cluster")
    parser.add_argument("--account", help="that is charged")


if __name__ == "__main__":
    sys.exit(guarded(main))
