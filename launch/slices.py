"""The verbs on a TPU slice: what `launch.tpu_vm` and `launch.queued` have in common.

A run goes on by itself on the workers (`launch/worker.py`), so a broken connection or a closed
laptop harms nothing: the launcher looks at it every half minute.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from launch import code as code_lib
from launch import outputs
from launch.arguments import Job, check_outlives_machine
from launch.commands import CommandError, Commands
from launch.exit_codes import AGAIN, DONE, INTERRUPTED, PEER_LOST, PREEMPTED, combined
from launch.relaunch import VANISHED, Stopped, supervise
from mmjax.errors import UserError

if TYPE_CHECKING:
    from launch.tpu_vm import TpuVm

VERBS = ("train", "create", "setup", "run", "logs", "status", "stop", "delete")

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

# Workers that still boot refuse ssh for a minute or two.
BOOT_LOOKS, BOOT_SECONDS = 20, 15
# A name can be used again once what had it is gone from the list.
DELETION_LOOKS, DELETION_SECONDS = 40, 15


def do(machine: TpuVm, job: Job, commands: Commands) -> int:
    """Does what the verb says; returns the exit code, of the run where there is one."""
    if job.options.slices > 1:
        raise UserError(
            f"--slices={job.options.slices}: one slice is created here; `launch.gke` and "
            "`launch.xpk` run on several."
        )
    with _signals_interrupt():
        if job.verb == "train":
            return _train(machine, job, commands)
        if job.verb == "run":
            return _run(machine, job, commands)
        if job.verb == "create":
            machine.create()
        elif job.verb == "setup":
            code_lib.warn_of_changes(job.code, commands)
            _setup(machine, job, commands, code_lib.pin(job.code))
        elif job.verb == "logs":
            _show_logs(machine, commands, None, job.options.worker)
        elif job.verb == "status":
            _status(machine, commands)
        elif job.verb == "stop":
            if machine.state(assume="READY") in (None, *GONE):
                commands.say(f"{job.name} is not there: nothing to stop")
            else:
                commands.run(machine.ssh(_worker(job, "stop")))
        else:
            machine.delete()
    return DONE


def _train(machine: TpuVm, job: Job, commands: Commands) -> int:
    """Creates the machine, runs, and deletes it, whatever comes in between."""
    check_outlives_machine(job)
    if job.options.detach:
        raise UserError("train deletes the machine at the end, so it stays: --detach is for `run`.")
    code = code_lib.pin(job.code)
    code_lib.warn_of_changes(job.code, commands)
    created: list[bool] = []

    def attempt() -> int | None:
        if not created:
            machine.create()
            created.append(True)
            return _try(machine, job, commands, code)
        return _again(machine, job, commands, code)

    try:
        return supervise(attempt, job.relaunches, commands)
    except KeyboardInterrupt:
        if created:
            commands.say("interrupted: the run is asked to save, then the machine is deleted")
            with contextlib.suppress(UserError):
                commands.run(machine.ssh(_worker(job, "stop")))
        return INTERRUPTED
    finally:
        if created and job.options.keep:
            commands.say(f"--keep: {job.name} goes on costing money until `delete`")
        elif created:
            machine.delete_or_say_how()


def _run(machine: TpuVm, job: Job, commands: Commands) -> int:
    """Runs on a machine that is there; only with relaunches is it created again."""
    if job.relaunches:
        check_outlives_machine(job)
    code = code_lib.pin(job.code)
    state = machine.state(assume="READY")
    if state in (None, *GONE) and not job.relaunches:
        raise UserError(
            f"{job.name} is {state or 'not there'}: `create` and `setup` come first, or `train`."
        )
    machine.ready = state not in (None, *GONE)
    known = [machine.ready]

    def attempt() -> int | None:
        if known and known.pop():
            return _try(machine, job, commands, code)
        return _again(machine, job, commands, code)

    try:
        return supervise(attempt, job.relaunches, commands)
    except KeyboardInterrupt:
        commands.say("interrupted: the run goes on; `logs`, `stop` and `delete` reach it")
        return INTERRUPTED
    finally:
        commands.say(f"{job.name} goes on costing money until `delete`")


def _again(machine: TpuVm, job: Job, commands: Commands, code: code_lib.Code) -> int | None:
    """An attempt after the first: on the same machine where it is still there, else a new one.

    What fails now has worked before, so it is told and counts as a machine that is gone.
    """
    try:
        state = machine.state()
        if state in (None, *GONE):
            if state is not None:
                _delete_for_good(machine, commands)
            if not _create_again(machine, commands):
                return VANISHED
        elif machine.ready:
            # One worker may have restarted alone; the others still wait for it.
            commands.run(machine.ssh(_worker(job, "stop", "--seconds=30")))
        return _try(machine, job, commands, code)
    except CommandError as error:
        commands.say(f"{error}")
        return VANISHED


def _delete_for_good(machine: TpuVm, commands: Commands) -> None:
    """Deletes the machine and waits until its name is free. Raises CommandError."""
    machine.delete()
    for _ in range(DELETION_LOOKS):
        if machine.state() is None:
            return
        commands.sleep(DELETION_SECONDS)
    raise CommandError(f"{machine.job.name} is still there after its deletion.", 1)


def _create_again(machine: TpuVm, commands: Commands) -> bool:
    machine.ready = False
    try:
        machine.create()
    except UserError as error:  # no capacity, or a list that still shows the one before
        commands.say(f"{error}")
        return False
    return True


def _try(machine: TpuVm, job: Job, commands: Commands, code: code_lib.Code) -> int | None:
    """Starts the run and follows it; VANISHED where the machine went away meanwhile."""
    try:
        if not machine.ready:
            _setup(machine, job, commands, code)
        start = _worker(job, "start", f"--version={code.version}", "--", *job.command)
        commands.run(machine.ssh(start))
        return DONE if job.options.detach else _follow(machine, job, commands)
    except CommandError:
        if _is_there(machine) is False:
            return VANISHED
        raise


def _setup(machine: TpuVm, job: Job, commands: Commands, code: code_lib.Code) -> None:
    """Copies the code and the environment file to all workers, and installs the packages there."""
    code_lib.pack(code, commands)
    folder = _folder(job)
    _run_once_booted(machine, commands, machine.ssh(["mkdir", "-p", "-m", "700", folder]))
    worker = str(code_lib.ROOT / "launch" / "worker.py")
    commands.run(machine.scp([str(code.archive), worker], f"{folder}/"))
    if job.env_file is not None:
        # scp gives a new file the mode of the old one, but leaves that of a file that is there.
        commands.run(machine.ssh(["rm", "-f", f"{folder}/env"]))
        commands.run(machine.scp([str(job.env_file)], f"{folder}/env"))
    setup = _worker(job, "setup", f"--version={code.version}", "--requirement=jax[tpu]")
    commands.run(machine.ssh(setup))
    machine.ready = True


def _run_once_booted(machine: TpuVm, commands: Commands, command: Sequence[str]) -> None:
    """Runs the first command on new workers, again until they answer or the machine is gone."""
    for _ in range(BOOT_LOOKS):
        try:
            commands.run(command)
            return
        except CommandError:
            if _is_there(machine) is False:
                raise
        commands.say(f"the workers do not answer: they may still boot; again in {BOOT_SECONDS} s")
        commands.sleep(BOOT_SECONDS)
    commands.run(command)


def _follow(machine: TpuVm, job: Job, commands: Commands) -> int | None:
    """Shows the log until the run is over; returns its exit code, or VANISHED."""
    if commands.dry_run:
        commands.say(f"every {POLL_SECONDS} s until the run is over:")
        _show_logs(machine, commands, None)
        _workers(machine, job, commands)
        return DONE
    seen, unanswered, looks = None, 0, 0
    while True:
        commands.sleep(POLL_SECONDS)
        try:
            seen = _show_logs(machine, commands, seen)
            workers = _workers(machine, job, commands)
            unanswered = 0
        except CommandError as error:
            there = _is_there(machine)
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
        code = combined(ended)
        if len(ended) == job.slice.hosts:
            _show_logs(machine, commands, seen)
            if code == PREEMPTED and any(w["stopped"] for w in workers):
                raise Stopped
            return code
        if any(w["state"] in ("lost", "none") for w in workers):
            return VANISHED
        if ended:
            looks += 1
            failed = code not in (DONE, *AGAIN)
            if looks > (LOOKS_AFTER_FAILURE if failed else LOOKS_AFTER_END):
                why = "a worker failed" if failed else "a worker has ended"
                commands.say(f"{why} and others hang: all are stopped")
                commands.run(machine.ssh(_worker(job, "stop", "--seconds=30")))
                _show_logs(machine, commands, seen)
                # One that is done does not speak for those that hang.
                return code or PEER_LOST


def _is_there(machine: TpuVm) -> bool | None:
    """None where Google does not answer: we may be the ones without a network."""
    try:
        return machine.state() not in (None, *GONE)
    except CommandError:
        return None


def _workers(machine: TpuVm, job: Job, commands: Commands) -> list[dict[str, Any]]:
    """The status of each worker. Raises CommandError where one has not answered."""
    told = commands.ask(machine.ssh(_worker(job, "status")))
    found = list(_records(told, "STATUS "))
    if len(found) < job.slice.hosts and not commands.dry_run:
        raise CommandError(f"{len(found)} of {job.slice.hosts} workers answered.", 1)
    return found


def _status(machine: TpuVm, commands: Commands) -> None:
    state = machine.state(assume="READY")
    if not commands.dry_run:
        print(f"{machine.job.name}: {state or 'not there'}")
    if state not in (None, *GONE):
        for w in _records(commands.ask(machine.ssh(_worker(machine.job, "status"))), "STATUS "):
            code = "" if w["code"] is None else f" with exit code {w['code']}"
            print(f"{w['host']}: {w['state']}{code}")


def _show_logs(machine: TpuVm, commands: Commands, begin: int | None, worker: str = "0") -> int:
    """Prints a worker's log from a byte on; returns the next one to ask for."""
    where = [] if begin is None else [f"--begin={begin}"]
    told = commands.ask(machine.ssh(_worker(machine.job, "logs", *where), worker=worker))
    for record in _records(told, "LOG "):
        outputs.write(record["text"], sys.stdout)
        if record["more"]:
            return _show_logs(machine, commands, record["next"], worker)
        begin = record["next"]
    return begin or 0


def _records(told: str, mark: str) -> Iterator[dict[str, Any]]:
    """The worker's lines among those of ssh and gcloud."""
    for line in told.splitlines():
        if line.startswith(mark):
            try:
                yield json.loads(line[len(mark) :])
            except ValueError as error:
                raise CommandError(f"a worker's answer cannot be read ({error}).", 1) from error


def _worker(job: Job, verb: str, *rest: str) -> list[str]:
    return ["python3", f"{_folder(job)}/worker.py", verb, *rest]


def _folder(job: Job) -> str:
    """On the workers, below the home directory."""
    return f"mmjax-{job.name}"


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A closed terminal or a `kill` is treated like Ctrl-C: machines are not left behind."""

    def interrupt(number: int, _: Any) -> None:
        if number == signal.SIGHUP:
            # The shell tells it and the kernel again: while the run is being saved, neither we nor
            # what we start then may hear it.
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
