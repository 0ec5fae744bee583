"""Many runs: the variants of a sweep, here or on machines of their own, and the table of them.

    python -m launch.sweep --sweep=launch/demo_sweep.json --workdir=runs/sweep
    python -m launch.sweep --sweep=... --workdir=gs://BUCKET/sweep --jobs=4 --target=queued \\
        --name=sweep --project=P --zone=Z --accelerator=v5litepod-8 --spot --relaunches=20

Each variant is a run in its own folder of the working directory. What has a result.json there is
finished, so the same command continues a sweep. `--target=slurm` and `--detach` only start the
runs; the same command, later, tells what has come of them. Arguments that are not known here are
for the target; those behind `--` are for every run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from launch import outputs
from launch.arguments import guarded
from launch.commands import Commands
from launch.exit_codes import DONE, PREEMPTED, as_exit_code, combined
from launch.processes import PASSED_ON, start
from launch.variants import Sweep, read_sweep
from mmjax.errors import UserError

# The verb by which each target does a whole run; "here" is `mmjax.main` without a launcher.
TARGETS = {
    "here": "",
    "local": "run",
    "tpu_vm": "train",
    "queued": "train",
    "gke": "run",
    "xpk": "run",
    "slurm": "run",
}


def main(argv: Sequence[str]) -> int:
    """Returns 0 where all variants are finished, or started by a target that does no more.

    Else the exit code of those that failed, or 75: the same command goes on with the rest.
    """
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    given, rest = _parser().parse_known_args(argv[:cut])
    if given.jobs < 1:
        raise UserError(f"--jobs={given.jobs} must be at least 1.")
    if given.target == "here" and rest:
        raise UserError(f"{rest[0]} is not known here, and --target=here takes nothing more.")
    _check_mode(argv[cut + 1 :])
    sweep, commands = read_sweep(given.sweep), Commands(given.dry_run)
    # A dry run asks no bucket.
    known = not (given.dry_run and "://" in given.workdir)
    missing = [n for n in sweep.variants if not (known and _finished(given.workdir, n))]
    todo = {
        name: _command(given, name, number, [*arguments, *argv[cut + 1 :]], rest)
        for number, (name, arguments) in enumerate(sweep.variants.items())
        if name in missing
    }
    commands.say(f"{len(sweep.variants) - len(todo)} of {len(sweep.variants)} variants finished")
    if given.dry_run:
        for command in todo.values():
            print(shlex.join(command))
        return DONE
    codes = Pool(given.jobs).run(todo)
    only_started = given.target == "slurm" or "--detach" in rest
    left = False
    for name in missing:
        if not _finished(given.workdir, name):
            left = left or not (only_started and codes.get(name) == DONE)
            came_to = f"exit code {codes[name]}" if name in codes else "not started"
            if codes.get(name) == DONE:
                came_to = "its command is done, its result still to come"
            commands.say(f"{name}: not finished ({came_to})")
    outputs.replace_dead()  # the table is for those who still read
    _report(given.workdir, sweep)
    return combined(list(codes.values())) or (PREEMPTED if left else DONE)


class Pool:
    """Runs commands, so many at a time; one that fails leaves the others alone.

    A signal is passed on to those that run, and no more are started.
    """

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._stopping = False
        self._running: dict[str, subprocess.Popen] = {}
        self._ended: queue.Queue[tuple[str, int]] = queue.Queue()

    def run(self, commands: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Exit codes by name, of those that were started, in the order in which they ended."""
        before = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        waiting, codes = list(commands.items()), {}
        try:
            while self._running or (waiting and not self._stopping):
                while waiting and len(self._running) < self._jobs and not self._stopping:
                    self._start(*waiting.pop(0))
                if self._running:
                    name, code = self._ended.get()
                    del self._running[name]
                    codes[name] = as_exit_code(code)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return codes

    def _start(self, name: str, command: Sequence[str]) -> None:
        outputs.write(f"launch: {name}: {shlex.join(command)}\n")
        self._running[name] = start(command, name, lambda code: self._ended.put((name, code)))

    def _pass_on(self, number: int, _: Any) -> None:
        self._stopping = True
        for process in list(self._running.values()):
            process.send_signal(PASSED_ON[number])


def _command(
    given: argparse.Namespace,
    name: str,
    number: int,
    arguments: Sequence[str],
    rest: Sequence[str],
) -> list[str]:
    """The command of one variant; machines are named by its place in the list."""
    workdir = f"--workdir={os.path.join(given.workdir, name)}"  # noqa: PTH118 - may be gs://
    if given.target == "here":
        return [sys.executable, "-m", "mmjax.main", *arguments, workdir]
    own = [f"--name={given.name}-{number}", workdir, *rest, "--", *arguments]
    return [sys.executable, "-m", f"launch.{given.target}", TARGETS[given.target], *own]


def _check_mode(arguments: Sequence[str]) -> None:
    """Raises UserError for runs that train nothing: they would never be finished."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, given, value = argument.partition("=")
        mode = value if given else following
        if flag in ("--mode", "-mode") and mode != "train":
            raise UserError(
                f"--mode={mode}: a sweep trains its variants, and is done where each has left a "
                "result.json; `python -m mmjax.main` does this for one of them."
            )


def _finished(workdir: str, name: str) -> bool:
    path = epath.Path(workdir) / name / "result.json"
    try:
        return path.exists()
    except Exception as error:  # each object store has its own kind
        raise UserError(f"{path} cannot be asked for ({error}).") from error


def _report(workdir: str, sweep: Sweep) -> None:
    """Prints the table of what is finished."""
    folders = [os.path.join(workdir, n) for n in sweep.variants if _finished(workdir, n)]  # noqa: PTH118
    if not folders:
        return
    from mmjax import report

    table = sweep.table or _table_of(folders)
    if table is not None:
        report.run([*folders, f"--table={table}"])


def _table_of(folders: Sequence[str]) -> str | None:
    """The table of what the runs do: the one on their dataset, or one that any dataset may join."""
    from mmjax.published.tables import load_table, table_names
    from mmjax.results import read_results

    result = read_results(folders)[0]
    result = next(iter(result.tasks.values()), result)
    tables = [t for t in map(load_table, table_names()) if t.task == result.task]
    tables.sort(key=lambda t: (t.dataset != result.dataset["name"], len(t.rows)))
    return tables[0].name if tables else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.sweep", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--sweep", required=True, help="FILE.json, or CONFIG.py with sweep()")
    parser.add_argument("--workdir", required=True, help="each variant gets a folder in it")
    parser.add_argument("--jobs", type=int, default=1, help="at the same time; default: 1")
    parser.add_argument("--target", choices=TARGETS, default="here", help="default: here")
    parser.add_argument("--name", default="sweep", help="machines are called NAME-0, NAME-1, ...")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, execute none")
    return parser


if __name__ == "__main__":
    sys.exit(guarded(main))
