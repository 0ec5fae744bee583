"""Several processes on this machine, connected as on a pod.

    python -m launch.local run --processes=2 --workdir=runs/two -- --config=configs/intent.py:demo

All end when one fails; Ctrl-C and SIGTERM reach all; the exit code is that of the run.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.arguments import Job, guarded, parse
from launch.commands import Commands
from launch.env_file import read_env_file
from launch.exit_codes import AGAIN, combined
from launch.processes import Group
from launch.relaunch import Stopped, supervise
from mmjax.errors import UserError

PLATFORMS = ("cpu", "gpu", "tpu")
DRY_RUN_PORT = 29500


def main(argv: Sequence[str], dev: Path = Path("/dev")) -> int:
    """Returns the exit code of the run.

    Args:
      dev: where the machine's accelerators are found.
    """
    job = parse(
        "local",
        "Runs mmjax in several processes here.",
        ("run",),
        argv,
        _add_arguments,
        cloud=False,
        tpu=False,
    )
    if job.code != "HEAD":
        raise UserError("--code is for other machines: here the files run as they are.")
    environments = _environments(job, dev)
    commands = Commands(job.dry_run)
    command = [sys.executable, "-m", "mmjax.main", *job.command, "--distributed=on"]
    secrets = read_env_file(job.env_file) if job.env_file else {}

    def attempt() -> int:
        port = DRY_RUN_PORT if job.dry_run else _free_port()
        own = [{"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", **e} for e in environments]
        if job.dry_run:
            commands.say("at the same time:")
            for environment in own:
                commands.run(["env", *(f"{k}={v}" for k, v in environment.items()), *command])
            return 0
        group = Group()
        code = combined(group.run([(command, {**os.environ, **secrets, **e}) for e in own]))
        if code in AGAIN and group.signalled:
            raise Stopped
        return code

    return supervise(attempt, job.relaunches, commands)


def _environments(job: Job, dev: Path) -> list[dict[str, str]]:
    """What each process finds in its environment. Raises UserError for devices it cannot have."""
    count, platform = job.options.processes, job.options.platform or _platform(dev)
    if count < 1:
        raise UserError(f"--processes={count} must be at least 1.")
    if platform == "tpu" and count > 1:
        raise UserError(
            f"--processes={count}: a TPU's chips belong to one process of a machine, which "
            "uses all of them; give --processes=1, or --platform=cpu."
        )
    gpus = _gpus(dev) if platform == "gpu" else []
    if platform == "gpu" and (not gpus or len(gpus) % count):
        raise UserError(
            f"--processes={count}: the {len(gpus)} GPUs of this machine cannot be shared out "
            "evenly."
        )
    environments = []
    for number in range(count):
        environment = {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(number)}
        if platform == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        if platform == "gpu":
            share = len(gpus) // count
            visible = gpus[number * share : (number + 1) * share]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
        environments.append(environment)
    return environments


def _platform(dev: Path) -> str:
    """What JAX would choose by itself."""
    if chosen := os.environ.get("JAX_PLATFORMS", "").partition(",")[0]:
        return {"cuda": "gpu"}.get(chosen, chosen)
    if any(dev.glob("accel[0-9]*")) or any((dev / "vfio").glob("[0-9]*")):
        return "tpu"
    return "gpu" if _gpus(dev) else "cpu"


def _gpus(dev: Path) -> list[str]:
    matches = (re.fullmatch(r"nvidia(\d+)", file.name) for file in dev.glob("nvidia*"))
    return sorted((m[1] for m in matches if m), key=int)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=2, help="how many; default: 2")
    parser.add_argument("--platform", choices=PLATFORMS, help="default: what the machine has")


if __name__ == "__main__":
    sys.exit(guarded(main))
