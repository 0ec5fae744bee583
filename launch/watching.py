"""Workers of a TPU slice, looked at from afar: their log, their state, and how the run ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from launch import outputs
from launch.arguments import Job
from launch.commands import CommandError, Commands
from launch.exit_codes import AGAIN, DONE, PEER_LOST, combined
from launch.relaunch import VANISHED, Stopped
from mmjax.errors import UserError

if TYPE_CHECKING:
    from launch.tpu_vm import TpuVm

# A machine in one of these states has stopped working for us; some of them still cost money.
GONE = (
    *("PREEMPTED", "TERMINATED", "STOPPING", "STOPPED", "DELETING"),
    *("SUSPENDING", "SUSPENDED", "FAILED"),
)

POLL_SECONDS = 30
# Questions in a row without an answer, while the machine is there, before we give up watching.
UNANSWERED = 10
# Looks at the others after one worker has failed, before they are stopped.
LOOKS_AFTER_FAILURE = 4
# The same where one is done or has saved: what the others still save and write takes minutes.
LOOKS_AFTER_END = 40


def follow(machine: TpuVm, job: Job, commands: Commands) -> int | None:
    """Shows the log until the run is over; returns its exit code, or VANISHED."""
    if commands.dry_run:
        commands.say(f"every {POLL_SECONDS} s until the run is over:")
        show_logs(machine, commands, None)
        statuses(machine, job, commands)
        return DONE
    seen, unanswered, looks = None, 0, 0
    while True:
        commands.sleep(POLL_SECONDS)
        try:
            seen = show_logs(machine, commands, seen)
            workers = statuses(machine, job, commands)
            unanswered = 0
        except CommandError as error:
            there = is_there(machine)
            if there is False:
                return VANISHED
            if there is None:
                # Nothing can be watched now, and nothing deleted: the run goes on without us.
                commands.say(f"{error} Looking again: see to the network, or `gcloud auth login`.")
                continue
            unanswered += 1
            if unanswered > UNANSWERED:
                raise UserError(
                    f"{job.name} is there, but does not answer ({error}); the run may go on: "
                    "`status` and `logs` look again, `delete` ends it and its cost."
                ) from error
            continue
        ended = [w["code"] for w in workers if w["state"] == "exited"]
        lost = any(w["state"] in ("lost", "none") for w in workers)
        stopped = any(w["stopped"] for w in workers)
        code = combined(ended)
        if lost and not stopped:
            return VANISHED
        if all(w["state"] != "running" for w in workers):
            show_logs(machine, commands, seen)
            return _unless_stopped(code or (PEER_LOST if lost else DONE), stopped)
        if ended or lost:
            looks += 1
            failed = code not in (DONE, *AGAIN)
            if looks > (LOOKS_AFTER_FAILURE if failed else LOOKS_AFTER_END):
                why = "a worker failed" if failed else "a worker has ended"
                commands.say(f"{why} and others hang: all are stopped")
                commands.run(machine.ssh(on_worker(job, "stop", "--seconds=30")))
                show_logs(machine, commands, seen)
                # One that is done does not speak for those that hang.
                return _unless_stopped(code or PEER_LOST, stopped)


def _unless_stopped(code: int, stopped: bool) -> int:
    """The exit code; raises Stopped where it would start a run again that was asked to stop."""
    if stopped and code in AGAIN:
        raise Stopped
    return code


def is_there(machine: TpuVm) -> bool | None:
    """None where Google does not answer: we may be the ones without a network."""
    try:
        return machine.state() not in (None, *GONE)
    except CommandError:
        return None


def statuses(machine: TpuVm, job: Job, commands: Commands) -> list[dict[str, Any]]:
    """The status of each worker. Raises CommandError where one has not answered."""
    told = commands.ask(machine.ssh(on_worker(job, "status")))
    found = list(records(told, "STATUS "))
    if len(found) < job.slice.hosts and not commands.dry_run:
        raise CommandError(f"{len(found)} of {job.slice.hosts} workers answered.", 1)
    return found


def show_logs(machine: TpuVm, commands: Commands, begin: int | None, worker: str = "0") -> int:
    """Prints a worker's log from a byte on; returns the next one to ask for."""
    where = [] if begin is None else [f"--begin={begin}"]
    told = commands.ask(machine.ssh(on_worker(machine.job, "logs", *where), worker=worker))
    for record in records(told, "LOG "):
        outputs.write(record["text"], sys.stdout)
        if record["more"]:
            return show_logs(machine, commands, record["next"], worker)
        begin = record["next"]
    return begin or 0


def records(told: str, mark: str) -> Iterator[dict[str, Any]]:
    """The worker's lines among those of ssh and gcloud."""
    for line in told.splitlines():
        if line.startswith(mark):
            try:
                yield json.loads(line[len(mark) :])
            except ValueError as error:
                raise CommandError(f"a worker's answer cannot be read ({error}).", 1) from error


def on_worker(job: Job, verb: str, *rest: str) -> list[str]:
    return ["python3", f"{folder_of(job)}/worker.py", verb, *rest]


def folder_of(job: Job) -> str:
    """On the workers, below the home directory."""
    return f"mmjax-{job.name}"
