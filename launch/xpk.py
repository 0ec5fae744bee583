"""XPK, which runs workloads on the TPU slices of a GKE cluster that it has made.

    python -m launch.xpk setup --image=REGION-docker.pkg.dev/P/REPOSITORY/mmjax [common arguments]
    python -m launch.xpk run --cluster=C --name=scan --project=P --zone=Z \\
        --accelerator=v5litepod-16 --image=... --relaunches=20 --workdir=gs://... -- --config=...

Verbs: `setup` builds the image, `run`, `logs`, `status`, `stop` and `delete`. To stop a workload is
to delete it: it saves before it goes, and the same `run` continues it.
"""

from __future__ import annotations

import argparse
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
# The state of a workload that has ended, well or not.
FINISHED = "Finished"
# A name can be used again once what had it is gone from the list.
DELETION_LOOKS, DELETION_SECONDS = 20, 15


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
        commands.run(_deletion(job))
    return DONE


def _run(job: Job, commands: Commands) -> int:
    """Submits the workload and waits for its end.

    One that has ended makes room: its run goes on from what it has saved.
    """
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
    state = _state(job, commands)
    if state == FINISHED:
        commands.say(f"{job.name} has ended: it is deleted, with its logs, and run anew")
        _delete_for_good(job, commands)
    elif state is not None:
        raise UserError(
            f"the workload {job.name} exists already ({state}): `logs` shows it, `delete` removes "
            "it, or choose another --name."
        )
    try:
        commands.run(create)
    except (CommandError, KeyboardInterrupt):
        commands.say("it could not be started; deleting what is left of it")
        commands.delete_or_say_how(_deletion(job), f"the workload {job.name} MAY STILL COST MONEY")
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


def _state(job: Job, commands: Commands) -> str | None:
    """As Kueue calls the workload's last condition ("Admitted"); None where there is none.

    XPK prints a table whose columns begin below their names; cells may be empty or hold spaces.
    """
    begin = -1
    for line in commands.ask(_listed(job)).splitlines():
        if line.startswith("Jobset Name"):
            begin = line.find("Status")
        elif line.split()[:1] == [job.name]:
            state = line[begin:].partition(" ")[0] if begin >= 0 else ""
            return state or "state unknown"
    return None


def _delete_for_good(job: Job, commands: Commands) -> None:
    """Deletes the workload and waits until its name is free. Raises CommandError."""
    commands.run(_deletion(job))
    for _ in range(DELETION_LOOKS):
        if _state(job, commands) is None:
            return
        commands.sleep(DELETION_SECONDS)
    raise CommandError(f"the workload {job.name} is still there after its deletion.", 1)


def _deletion(job: Job) -> list[str]:
    # Without --workload, XPK would delete all workloads of the cluster.
    return [*_xpk(job, "delete"), f"--workload={job.name}", "--force"]


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
