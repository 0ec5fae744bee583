"""XPK, which runs workloads on the TPU slices of a GKE cluster that it has made.

    python -m launch.xpk setup --image=REGION-docker.pkg.dev/P/REPOSITORY/mmjax [common arguments]
    python -m launch.xpk run --cluster=C --name=scan --project=P --zone=Z \\
        --accelerator=v5litepod-16 --image=... --relaunches=20 --workdir=gs://... -- --config=...

Verbs: `setup` builds the image, `run`, `logs`, `status`, `stop` and `delete`. To stop a workload is
to delete it: it saves before it goes, and the same `run` continues it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence

from launch import code as code_lib
from launch import image, pods
from launch.arguments import Job, guarded, parse
from launch.commands import CommandError, Commands
from launch.exit_codes import AGAIN, DONE
from launch.jobset import GRACE_SECONDS
from mmjax.errors import UserError

VERBS = ("setup", "run", "logs", "status", "stop", "delete")
# Exit code of xpk where the workload it waited for has failed.
WORKLOAD_FAILED = 125


def main(argv: Sequence[str]) -> int:
    job = parse("xpk", "Runs mmjax by XPK.", VERBS, argv, _add_arguments)
    commands = Commands(job.dry_run)
    if job.verb == "setup":
        image.build(job, commands)
        return DONE
    if not job.options.cluster:
        raise UserError(f"{job.verb} needs --cluster=..., the name of the cluster that XPK made.")
    if job.verb == "run":
        return _run(job, commands)
    if job.verb == "logs":
        commands.run(["kubectl", *pods.logs(job.name)])
    elif job.verb == "status":
        commands.run(_listed(job))
    else:
        _delete(job, commands)
    return DONE


def _run(job: Job, commands: Commands) -> int:
    """Submits the workload and waits for its end."""
    wanted = image.name_of(job, code_lib.pin(job.code))
    command = shlex.join(["python", "-m", "mmjax.main", *job.command])
    create = [
        *_xpk(job, "create"),
        f"--workload={job.name}",
        f"--tpu-type={job.slice.type}",
        f"--num-slices={job.options.slices}",
        f"--docker-image={wanted}",
        f"--max-restarts={job.relaunches}",
        # By itself XPK restarts after 42 and 127 to 255: nodes that are taken away.
        f"--restart-on-exit-codes={','.join(map(str, AGAIN))}",
        f"--termination-grace-period-seconds={GRACE_SECONDS}",
        *([f"--env-file={job.env_file}"] if job.env_file else []),
        f"--command={command}",
    ]
    if re.search(rf"(?m)^{re.escape(job.name)}\s", commands.ask(_listed(job))):
        raise UserError(
            f"the workload {job.name} exists already: `logs` shows it, `delete` removes it, or "
            "choose another --name."
        )
    try:
        commands.run(create)
    except (CommandError, KeyboardInterrupt):
        commands.say("it could not be started; deleting what is left of it")
        _delete(job, commands)
        raise
    if job.options.detach:
        return DONE
    try:
        commands.run([*_xpk(job, "list"), f"--wait-for-job-completion={job.name}"])
    except CommandError as error:
        if error.code != WORKLOAD_FAILED:
            raise
        commands.say(f"{job.name} failed; `logs` shows why")
        return _exit_code(job, commands)
    return DONE


def _exit_code(job: Job, commands: Commands) -> int:
    """That of the run, from the cluster to which XPK has just pointed kubectl."""
    try:
        return pods.exit_code(job.name, ["kubectl"], commands)
    except UserError as error:
        commands.say(f"its exit code is not known: {error}")
        return 1


def _delete(job: Job, commands: Commands) -> None:
    # Without --workload, XPK would delete all workloads of the cluster.
    commands.run([*_xpk(job, "delete"), f"--workload={job.name}", "--force"])


def _listed(job: Job) -> list[str]:
    return [*_xpk(job, "list"), f"--filter-by-job={job.name}"]


def _xpk(job: Job, verb: str) -> list[str]:
    where = [f"--cluster={job.options.cluster}", f"--project={job.project}", f"--zone={job.zone}"]
    return ["xpk", "workload", verb, *where]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    image.add_argument(parser)
    parser.add_argument("--cluster", help="that XPK made")
    parser.add_argument("--detach", action="store_true", help="run: start it and come back")


if __name__ == "__main__":
    sys.exit(guarded(main))
