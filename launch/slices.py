"""The verbs on a TPU slice: what `launch.tpu_vm` and `launch.queued` have in common.

A run goes on by itself on the workers (`launch/worker.py`), so a broken connection or a closed
laptop harms nothing: the launcher looks at it every half minute.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from launch import code as code_lib
from launch.arguments import Job, check_outlives_machine
from launch.commands import CommandError, Commands
from launch.exit_codes import DONE, INTERRUPTED
from launch.relaunch import VANISHED, supervise
from launch.watching import GONE, folder_of, follow, is_there, on_worker, records, show_logs
from mmjax.errors import UserError

if TYPE_CHECKING:
    from launch.tpu_vm import TpuVm

VERBS = ("train", "create", "setup", "run", "logs", "status", "stop", "delete")

# Workers that still boot refuse ssh for a minute or two, and a new key until they have heard of it.
BOOT_LOOKS, BOOT_SECONDS = 20, 15
KEY_LOOKS = 4
_KEY_REFUSED = re.compile(r"Permission denied \(publickey")
# What Google's API says to who may not, or has to log in again: waiting does not help.
_API_REFUSES = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|Required '[\w.]+' permission|invalid_grant|"
    r"refreshing your current auth|reauthentication|active account selected",
    re.IGNORECASE,
)
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
            show_logs(machine, commands, None, job.options.worker)
        elif job.verb == "status":
            _status(machine, commands)
        elif job.verb == "stop":
            if machine.state(assume="READY") in (None, *GONE):
                commands.say(f"{job.name} is not there: nothing to stop")
            else:
                commands.run(machine.ssh(on_worker(job, "stop")))
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
                commands.run(machine.ssh(on_worker(job, "stop")))
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
            commands.run(machine.ssh(on_worker(job, "stop", "--seconds=30")))
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
        start = on_worker(job, "start", f"--version={code.version}", "--", *job.command)
        commands.run(machine.ssh(start))
        return DONE if job.options.detach else follow(machine, job, commands)
    except CommandError:
        if is_there(machine) is False:
            return VANISHED
        raise


def _setup(machine: TpuVm, job: Job, commands: Commands, code: code_lib.Code) -> None:
    """Copies the code and the environment file to all workers, and installs the packages there."""
    code_lib.pack(code, commands)
    folder = folder_of(job)
    _run_once_booted(machine, commands, machine.ssh(["mkdir", "-p", "-m", "700", folder]))
    worker = str(code_lib.ROOT / "launch" / "worker.py")
    commands.run(machine.scp([str(code.archive), worker], f"{folder}/"))
    if job.env_file is not None:
        # scp gives a new file the mode of the old one, but leaves that of a file that is there.
        commands.run(machine.ssh(["rm", "-f", f"{folder}/env"]))
        commands.run(machine.scp([str(job.env_file)], f"{folder}/env"))
    setup = on_worker(job, "setup", f"--version={code.version}", "--requirement=jax[tpu]")
    commands.run(machine.ssh(setup))
    machine.ready = True


def _run_once_booted(machine: TpuVm, commands: Commands, command: Sequence[str]) -> None:
    """Runs the first command on new workers, again while they may still boot.

    Raises CommandError where the machine is gone, where waiting does not help, and in the end.
    """
    told, keys_refused = None, 0
    for look in range(BOOT_LOOKS + 1):
        try:
            commands.ask(command)
            return
        except CommandError as error:
            if error.complaint != told:
                told = error.complaint
                commands.say(told.strip() or f"{error}")
            keys_refused += bool(_KEY_REFUSED.search(told))
            if _API_REFUSES.search(told):
                raise CommandError(
                    "Google refuses it, as told above: `gcloud auth login`, or ask for a role that "
                    "may do it, such as roles/tpu.admin.",
                    error.code,
                ) from error
            if keys_refused == KEY_LOOKS:
                raise CommandError(
                    "the workers refuse the ssh key, as told above: `ssh-add "
                    "~/.ssh/google_compute_engine`; where the project has OS Login, also ask for "
                    "roles/compute.osAdminLogin.",
                    error.code,
                ) from error
            if look == BOOT_LOOKS or is_there(machine) is False:
                raise
        commands.say(f"the workers do not answer: they may still boot; again in {BOOT_SECONDS} s")
        commands.sleep(BOOT_SECONDS)


def _status(machine: TpuVm, commands: Commands) -> None:
    state = machine.state(assume="READY")
    if not commands.dry_run:
        print(f"{machine.job.name}: {state or 'not there'}")
    if state not in (None, *GONE):
        for w in records(commands.ask(machine.ssh(on_worker(machine.job, "status"))), "STATUS "):
            code = "" if w["code"] is None else f" with exit code {w['code']}"
            print(f"{w['host']}: {w['state']}{code}")


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
