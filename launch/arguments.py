"""The arguments that every target takes, and what is wrong with them in one sentence.

    python -m launch.TARGET VERB --name=NAME [where and on what] --workdir=DIR -- --config=... ...

What stands behind `--` is for `mmjax.main`; the working directory is given before it, since the
launcher must know where the run lives.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch import outputs
from launch.accelerators import Slice, parse_slice
from launch.env_file import read_env_file
from mmjax.errors import UserError

# Verbs that hand a command line to mmjax.
RUNNING = ("run", "train", "manifest")

_FORMS = {
    "name": (r"[a-z]([-a-z0-9]{0,37}[a-z0-9])?", "small letters, digits and hyphens, at most 39"),
    "project": (r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project id, such as my-project"),
    "zone": (r"[a-z]+-[a-z]+\d+-[a-z]", "a zone, such as us-central2-b"),
    "worker": (r"\d{1,4}", "the number of a worker"),
    "cluster": (r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", "the name of a cluster"),
}
_SECRET = re.compile(r"(api[_-]?key|token|secret|passw(or)?d)=", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be started, and where.

    Attributes:
      verb: what to do.
      name: of the machine, job or workload.
      workdir: where the run lives, as `mmjax.main --workdir`.
      arguments: for `mmjax.main`, without the working directory.
      code: "HEAD", another commit, or "worktree" (see `launch.code`).
      env_file: secrets and other variables of the run.
      relaunches: how often the run is started again when its machine is taken away.
      slice: the TPUs; None where the target has none.
      options: what only this target takes.
    """

    verb: str
    name: str
    workdir: str
    arguments: tuple[str, ...]
    code: str
    env_file: Path | None
    relaunches: int
    dry_run: bool
    project: str | None
    zone: str | None
    slice: Slice | None
    options: argparse.Namespace

    @property
    def command(self) -> list[str]:
        """The arguments of `mmjax.main`, complete."""
        several = self.slice is not None and self.slice.hosts > 1
        # Without it a worker that does not see the others would train alone.
        connect = ["--distributed=on"] if several and not _given(self, "distributed") else []
        return [*self.arguments, f"--workdir={self.workdir}", *connect]


def parse(
    target: str,
    about: str,
    verbs: Sequence[str],
    argv: Sequence[str],
    add_own: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
    *,
    cloud: bool = True,
    tpu: bool = True,
) -> Job:
    """The job that a command line describes.

    Args:
      about: one sentence for --help.
      add_own: adds the arguments that only this target has.
      cloud: whether the target is in a Google Cloud project.
      tpu: whether it runs on TPU slices.

    Raises:
      UserError: a value that cannot be, or one that is missing.
    """
    own, arguments = _split(argv)
    parser = _Parser(
        prog=f"python -m launch.{target}",
        description=about,
        epilog="What stands behind `--` is for mmjax.main.",
        allow_abbrev=False,
    )
    parser.add_argument("verb", choices=verbs, help="what to do")
    parser.add_argument("--name", default="mmjax", help="of the machine, job or workload")
    if cloud:
        parser.add_argument("--project", help="Google Cloud project that pays")
        parser.add_argument("--zone", help="such as us-central2-b")
    if tpu:
        parser.add_argument("--accelerator", help="type of the slice, such as v5litepod-16")
        parser.add_argument("--slices", type=int, default=1, help="how many such; default: 1")
    parser.add_argument("--workdir", default="", help="where the run lives, as for mmjax.main")
    parser.add_argument("--code", default="HEAD", help="a commit, or worktree: as the files are")
    parser.add_argument("--env_file", type=Path, help="NAME=VALUE lines, mode 600, for secrets")
    parser.add_argument("--relaunches", type=int, default=0, help="after a preemption; default: 0")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, execute none")
    add_own(parser)
    given = parser.parse_args(list(own))
    job = Job(
        verb=given.verb,
        name=given.name,
        workdir=given.workdir,
        arguments=tuple(arguments),
        code=given.code,
        env_file=given.env_file,
        relaunches=given.relaunches,
        dry_run=given.dry_run,
        project=getattr(given, "project", None),
        zone=getattr(given, "zone", None),
        slice=parse_slice(given.accelerator) if tpu and given.accelerator else None,
        options=given,
    )
    _check(job, cloud=cloud, tpu=tpu)
    return job


def guarded(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a launcher; bad input is one sentence and exit code 2, Ctrl-C is 130."""
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        outputs.write(f"launch: {error}\n")
        return 2
    except KeyboardInterrupt:
        outputs.write("launch: interrupted.\n")
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message} (`{self.prog} --help` lists what there is).")


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What is for the launcher, and what stands behind `--`."""
    argv = list(argv)
    if "--" not in argv:
        return argv, []
    cut = argv.index("--")
    return argv[:cut], argv[cut + 1 :]


def _check(job: Job, *, cloud: bool, tpu: bool) -> None:
    for name, (form, words) in _FORMS.items():
        value = getattr(job.options, name, None)
        if value and not re.fullmatch(form, value):
            raise UserError(f"--{name}={value!r} is not {words}.")
    needed = [n for n in ("project", "zone") if cloud and not getattr(job, n)]
    creates = job.verb in (*RUNNING, "create", "setup")
    if tpu and creates and job.slice is None:
        needed.append("accelerator")
    if job.verb in RUNNING and not job.workdir:
        needed.append("workdir")
    if needed:
        raise UserError(f"{job.verb} needs {' and '.join(f'--{n}' for n in needed)}.")
    if tpu:
        _check_slices(job)
    if job.relaunches < 0:
        raise UserError(f"--relaunches={job.relaunches} must be at least 0.")
    if job.env_file is not None:
        read_env_file(job.env_file)
    if job.verb in RUNNING:
        _check_arguments(job)
    if job.verb in RUNNING and job.slice is not None and job.slice.hosts > 1:
        _check_bucket(job, f"{job.slice.type} has {job.slice.hosts} hosts that share it")


def _check_slices(job: Job) -> None:
    count = job.options.slices
    if count < 1:
        raise UserError(f"--slices={count} must be at least 1.")
    if count > 1 and job.slice is not None and job.slice.hosts == 1:
        raise UserError(
            f"--slices={count}: {job.slice.type} is one host, and several slices are connected "
            "only where each has several; choose a larger --accelerator."
        )


def _check_arguments(job: Job) -> None:
    if not _given(job, "config"):
        raise UserError(
            "what mmjax.main is to run stands behind `--`, such as "
            "`-- --config=configs/retrieval.py:demo`."
        )
    if _given(job, "workdir"):
        raise UserError("--workdir=DIR belongs before the `--`.")
    for argument in job.arguments:
        if _SECRET.search(argument):
            raise UserError(
                f"{argument.partition('=')[0]}=... looks like a secret, and command lines can be "
                "read by others: put it into a file of NAME=VALUE lines and give --env_file=FILE."
            )


def _check_bucket(job: Job, why: str) -> None:
    if not job.workdir.startswith("gs://"):
        raise UserError(
            f"--workdir={job.workdir}: {why}, so it must be in a bucket, gs://BUCKET/FOLDER."
        )


def check_outlives_machine(job: Job) -> None:
    """Raises UserError for a working directory that would be deleted with its machine."""
    _check_bucket(job, "the machine is deleted or can be taken away, and its disk with it")


def _given(job: Job, flag: str) -> bool:
    names = (a.lstrip("-").partition("=")[0] for a in job.arguments if a.startswith("-"))
    return flag in names
