"""A Kubernetes cluster with TPUs: the run is a JobSet, which Kubernetes restarts by itself.

    python -m launch.gke setup --image=REGION-docker.pkg.dev/P/REPOSITORY/mmjax [common arguments]
    python -m launch.gke run --name=scan --project=P --zone=Z --accelerator=v5litepod-16 \\
        --image=... --relaunches=20 --workdir=gs://BUCKET/runs/scan -- --config=...

Verbs: `setup` builds the image, `manifest` prints what `run` applies, then `logs`, `status`, `stop`
(saves; `run` continues) and `delete`. The cluster is that of `kubectl`'s --context, or of its
current one where that is of the project, as `gcloud container clusters get-credentials` leaves it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from launch import code as code_lib
from launch import image, jobset, kueue, pods
from launch.arguments import Job, guarded, parse
from launch.commands import CommandError, Commands
from launch.env_file import read_env_file
from launch.exit_codes import DONE, PREEMPTED
from mmjax.errors import UserError

VERBS = ("setup", "manifest", "run", "logs", "status", "stop", "delete")
POLL_SECONDS = 30
UNANSWERED = 10
SUSPEND, RESUME = ('{"spec":{"suspend":true}}', '{"spec":{"suspend":false}}')


def main(argv: Sequence[str]) -> int:
    job = parse("gke", "Runs mmjax in a Kubernetes cluster.", VERBS, argv, _add_arguments)
    commands = Commands(job.dry_run)
    if job.verb == "setup":
        image.build(job, commands)
        return DONE
    if job.verb == "manifest":
        print(_text(_manifest(job)))
        return DONE
    if job.verb == "run":
        wanted = _manifest(job)  # what is wrong with it is told before anyone is asked
        _check_context(job, commands)
        return _run(job, commands, wanted)
    _check_context(job, commands)
    if job.verb == "logs":
        commands.run(_logs(job))
    elif job.verb == "status":
        commands.run(_kubectl(job, "get", "jobset,pods", pods.selector(job.name), "--output=wide"))
    elif job.verb == "stop":
        found = _found(job, commands, assume="{}")
        if found is None or found.get("status", {}).get("terminalState"):
            commands.say(f"{job.name} does not run: nothing to stop")
        elif kueue.queued(found):
            kueue.stop(found, _kubectl(job), commands)
        else:
            commands.run(_patch(job, SUSPEND))
    else:
        _delete(job, commands)
    return DONE


def _check_context(job: Job, commands: Commands) -> None:
    """That nothing is started, or deleted, in a cluster that happens to be the current one."""
    if job.options.context:
        return
    own = f"gke_{job.project}_"
    found = commands.ask(["kubectl", "config", "current-context"], assume=own).strip()
    if not found.startswith(own):
        raise UserError(
            f"kubectl's current context {found!r} is of no cluster of {job.project}: `gcloud "
            f"container clusters get-credentials CLUSTER --zone={job.zone} --project={job.project}`"
            " chooses one, or name it with --context=NAME."
        )


def _run(job: Job, commands: Commands, wanted: dict[str, Any]) -> int:
    """Applies the JobSet, or continues one that was stopped, and waits for its end.

    One that has ended makes room: its run goes on from what it has saved.
    """
    found = _found(job, commands)
    ended = None if found is None else found.get("status", {}).get("terminalState")
    waits = found is not None and (ended or kueue.stopped(found))
    if waits and _what_runs(found) != _what_runs(wanted):
        raise UserError(
            f"the JobSet {job.name} has run another commit or other arguments: give the same ones, "
            "`delete` it first, or choose another --name."
        )
    if ended:
        commands.say(f"{job.name} has ended ({ended}): it is deleted, with its logs, and run anew")
        # What it is made of has the same names: it must be gone first.
        _delete(job, commands, "--cascade=foreground")
        found = None
    if found is not None and kueue.stopped(found):
        if kueue.queued(found):
            kueue.resume(found, _kubectl(job), commands)
        else:
            commands.run(_patch(job, RESUME))
    elif found is not None:
        raise UserError(
            f"the JobSet {job.name} exists already: `logs` shows it, `delete` removes it, or "
            "choose another --name."
        )
    else:
        _apply(job, commands, wanted)
    if job.options.detach:
        return DONE
    try:
        return _follow(job, commands)
    except KeyboardInterrupt:
        commands.say("interrupted: the run goes on; `logs`, `stop` and `delete` reach it")
        raise


def _apply(job: Job, commands: Commands, wanted: dict[str, Any]) -> None:
    try:
        if job.env_file is not None:
            variables = read_env_file(job.env_file)
            hidden = dict.fromkeys(variables, f"(from {job.env_file})")
            commands.run(
                _kubectl(job, "apply", "--filename=-"),
                stdin=_text(jobset.secret(job, variables)),
                shown=_text(jobset.secret(job, hidden)),
            )
        commands.run(_kubectl(job, "apply", "--filename=-"), stdin=_text(wanted))
        if job.env_file is not None:
            _own_secret(job, commands)
    except (CommandError, KeyboardInterrupt):
        commands.say("it could not be started; deleting what is left of it")
        jobset_, secret = _deletions(job)
        commands.delete_or_say_how(jobset_, f"the JobSet {job.name} MAY STILL COST MONEY")
        commands.delete_or_say_how(secret, f"the Secret {jobset.secret_name(job)} may still exist")
        raise


def _own_secret(job: Job, commands: Commands) -> None:
    """Makes the secret go with the JobSet, also where that goes by itself."""
    found = _found(job, commands, assume='{"metadata":{"uid":"UID"}}')
    if found is None:
        raise CommandError(f"the JobSet {job.name} is not there after it was applied.", 1)
    owners = jobset.owner(job, found["metadata"]["uid"])
    change = json.dumps({"metadata": {"ownerReferences": [owners]}}, separators=(",", ":"))
    secret = jobset.secret_name(job)
    commands.run(_kubectl(job, "patch", "secret", secret, "--type=merge", f"--patch={change}"))


def _follow(job: Job, commands: Commands) -> int:
    if commands.dry_run:
        commands.say(f"every {POLL_SECONDS} s until it is Completed or Failed:")
        _found(job, commands)
        return DONE
    last, unanswered = None, 0
    while True:
        commands.sleep(POLL_SECONDS)
        try:
            found = _found(job, commands)
            unanswered = 0
        except CommandError:
            unanswered += 1
            if unanswered > UNANSWERED:
                raise
            continue
        if found is None:
            raise UserError(f"the JobSet {job.name} was deleted while it ran.")
        status = found.get("status", {})
        begun = "queued" if found["spec"].get("suspend") else "running"
        shown = (status.get("terminalState") or begun, status.get("restarts", 0))
        if shown != last:
            commands.say(f"{job.name}: {shown[0]}, restarts: {shown[1]}")
            last = shown
        if status.get("terminalState") == "Completed":
            return DONE
        if status.get("terminalState") == "Failed":
            commands.run([part for part in _logs(job) if part != "--follow"])
            return pods.exit_code(job.name, _kubectl(job), commands)
        if kueue.stopped(found):
            commands.say("stopped as asked: `run` continues it")
            return PREEMPTED


def _delete(job: Job, commands: Commands, *more: str) -> None:
    """Deletes the JobSet and its secret; what is not there is no error.

    Raises CommandError, that of the first deletion that failed, once both were tried.
    """
    errors = []
    for deletion in _deletions(job, *more):
        try:
            commands.run(deletion)
        except CommandError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _deletions(job: Job, *more: str) -> list[list[str]]:
    """Of the JobSet, and of its secret."""
    both = (("jobset", job.name), ("secret", jobset.secret_name(job)))
    return [_kubectl(job, "delete", *what, "--ignore-not-found", *more) for what in both]


def _found(job: Job, commands: Commands, assume: str = "") -> dict[str, Any] | None:
    """The JobSet as it is in the cluster; None where it is not."""
    told = commands.ask(
        _kubectl(job, "get", "jobset", job.name, "--ignore-not-found", "--output=json"), assume
    )
    return json.loads(told) if told.strip() else None


def _manifest(job: Job) -> dict[str, Any]:
    return jobset.manifest(job, image.name_of(job, code_lib.pin(job.code)))


def _what_runs(record: dict[str, Any]) -> tuple[str, list[str], int]:
    """(image, command, slices) of a JobSet."""
    replicated = record["spec"]["replicatedJobs"][0]
    container = replicated["template"]["spec"]["template"]["spec"]["containers"][0]
    return container["image"], container["command"], replicated.get("replicas", 1)


def _patch(job: Job, change: str) -> list[str]:
    return _kubectl(job, "patch", "jobset", job.name, "--type=merge", f"--patch={change}")


def _logs(job: Job) -> list[str]:
    return _kubectl(job, *pods.logs(job.name))


def _kubectl(job: Job, *arguments: str) -> list[str]:
    context = [f"--context={job.options.context}"] if job.options.context else []
    return ["kubectl", *context, *arguments]


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1)  # JSON is YAML


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    image.add_argument(parser)
    parser.add_argument("--context", help="kubectl's, of the cluster; default: the current one")
    parser.add_argument("--spot", action="store_true", help="on nodes that can be taken away")
    parser.add_argument("--queue", help="Kueue's LocalQueue, where the cluster has one")
    parser.add_argument("--service_account", help="Kubernetes' account that may write the bucket")
    parser.add_argument("--detach", action="store_true", help="run: start it and come back")


if __name__ == "__main__":
    sys.exit(guarded(main))
