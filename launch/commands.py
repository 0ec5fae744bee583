"""Programs of others (gcloud, kubectl, xpk, sbatch): run, asked, or only shown."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from launch import outputs
from mmjax.errors import UserError

# A question to a cloud that has not been answered after this long never will be.
ANSWER_SECONDS = 300

INSTALL = {
    "gcloud": "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then "
    "`gcloud auth login`",
    "kubectl": "`gcloud components install kubectl gke-gcloud-auth-plugin`",
    "xpk": "`pip install xpk`",
    "sbatch": "run this on a login node of the Slurm cluster",
    "git": "install git",
}


class CommandError(UserError):
    """A program ended with another exit code than 0.

    Attributes:
      complaint: all that it wrote to stderr, where it was asked and not only run.
    """

    def __init__(self, message: str, code: int, complaint: str = ""):
        super().__init__(message)
        self.code, self.complaint = code, complaint


class Commands:
    """Runs programs, or with `dry_run` prints them so that they can be pasted into a shell.

    Args:
      dry_run: execute nothing.
      sleep: waits so many seconds; tests give one that does not.
    """

    def __init__(self, dry_run: bool = False, sleep: Callable[[float], Any] = time.sleep):
        self.dry_run = dry_run
        self._sleep = sleep

    def run(self, argv: Sequence[str], stdin: str | None = None, shown: str | None = None) -> None:
        """Runs a program, its output going to the terminal. Raises CommandError.

        Args:
          stdin: text for it. Secrets go this way, never into `argv`, which every user of the
            machine can read.
          shown: what a dry run prints in place of `stdin`.
        """
        if self.dry_run:
            self._show(argv, stdin if shown is None else shown)
            return
        _check_installed(argv[0])
        outputs.replace_dead()
        # No terminal: a program that would ask a question fails instead of waiting for an answer.
        given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        code = subprocess.run(list(argv), text=True, check=False, **given).returncode
        if code:
            raise CommandError(
                f"`{shlex.join(argv)}` failed with exit code {code}; its reason stands above.", code
            )

    def ask(self, argv: Sequence[str], assume: str = "") -> str:
        """What a program prints. Raises CommandError with its complaint, last line in the message.

        Args:
          assume: the answer in a dry run.
        """
        if self.dry_run:
            self._show(argv, None)
            return assume
        _check_installed(argv[0])
        try:
            done = subprocess.run(
                list(argv),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=ANSWER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(
                f"`{shlex.join(argv)}` did not answer for {ANSWER_SECONDS} s.", 124
            ) from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CommandError(
                f"`{shlex.join(argv)}` failed with exit code {done.returncode}: {reason}",
                done.returncode,
                done.stderr,
            )
        return done.stdout

    def delete_or_say_how(self, deletion: Sequence[str], left: str) -> None:
        """Runs a deletion in a clean-up, which goes on whatever comes of it.

        Args:
          left: what is left where it fails: "NAME MAY STILL COST MONEY".
        """
        try:
            self.run(deletion)
        except (UserError, KeyboardInterrupt) as error:
            self.say_how(deletion, left, error)

    def say_how(self, deletion: Sequence[str], left: str, error: BaseException) -> None:
        """Says what is left after an error in a deletion, and how to end it by hand."""
        self.say(str(error) or "interrupted")
        self.say(f"{left}. Delete it: {shlex.join(deletion)}")

    def sleep(self, seconds: float) -> None:
        """Waits; a dry run does not."""
        if not self.dry_run:
            self._sleep(seconds)

    def say(self, text: str) -> None:
        """A line to the person who watches; a comment in what a dry run prints."""
        if self.dry_run:
            print(f"# {text}")
        else:
            outputs.write(f"launch: {text}\n")

    def _show(self, argv: Sequence[str], stdin: str | None) -> None:
        if stdin is None:
            print(shlex.join(argv))
        else:
            print(f"{shlex.join(argv)} <<'END'\n{stdin.rstrip()}\nEND")


def _check_installed(program: str) -> None:
    if shutil.which(program) is None:
        raise UserError(f"{program} is not on the PATH: {INSTALL.get(program, 'install it')}.")
