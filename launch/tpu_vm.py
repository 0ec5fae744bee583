"""TPU VMs, single or pod slices.

    python -m launch.tpu_vm train --name=scan --project=P --zone=Z --accelerator=v5litepod-16 \\
        --spot --relaunches=20 --workdir=gs://BUCKET/runs/scan -- --config=configs/retrieval.py

`train` creates the machine, runs, and deletes it, whatever happens. Step by step: `create`,
`setup` (code and packages), `run`, `logs`, `status`, `stop` (saves first), `delete`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence

from launch import slices
from launch.arguments import Job, guarded, parse
from launch.commands import CommandError, Commands
from mmjax.errors import UserError

# Looks for what has just been created, whole or in part: the list is not always up to date at once.
LOOKS, LOOK_SECONDS = 3, 10


def main(argv: Sequence[str]) -> int:
    job = parse("tpu_vm", "Runs mmjax on TPU VMs.", slices.VERBS, argv, add_arguments)
    commands = Commands(job.dry_run)
    return slices.do(TpuVm(job, commands), job, commands)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only slices take."""
    parser.add_argument("--runtime", help="software of the VM; default: Google's for the type")
    parser.add_argument("--spot", action="store_true", help="cheaper; can be taken away any time")
    parser.add_argument("--keep", action="store_true", help="a failure does not delete the machine")
    parser.add_argument("--detach", action="store_true", help="run: start it and come back")
    parser.add_argument("--worker", default="0", help="logs: whose; default: the first")
    parser.add_argument("--internal_ip", action="store_true", help="reach workers inside the VPC")


class TpuVm:
    """A slice that is created at once, or refused.

    Attributes:
      ready: whether the code and the packages are on all workers, as far as is known here.
    """

    group = "tpu-vm"

    def __init__(self, job: Job, commands: Commands):
        self.job, self.commands, self.ready = job, commands, False
        self.where = [f"--project={job.project}", f"--zone={job.zone}"]

    def state(self, assume: str | None = None) -> str | None:
        """As Google calls it ("READY"), or None where there is no such machine.

        A list is asked for, not the machine: an answer without it is certain, while a question that
        fails may also mean that the network or the login does. Raises CommandError for those.

        Args:
          assume: the answer in a dry run.
        """
        told = self.commands.ask(self._listed(), assume="[]")
        if self.commands.dry_run:
            return assume
        try:
            found = {m["name"].rpartition("/")[2]: _state(m) for m in json.loads(told or "[]")}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CommandError(
                f"gcloud's list of machines cannot be read ({error!r}).", 1
            ) from None
        return found.get(self.job.name)

    def create(self) -> None:
        """Creates the machine; what is left of a failed attempt is deleted, unless --keep.

        Raises:
          UserError: there is one of this name, which is not touched; or it could not be created.
        """
        state = self.state()
        if state is not None:
            raise UserError(
                f"{self.job.name} exists already (state {state}): `run` uses it, `delete` removes "
                "it, or choose another --name."
            )
        try:
            self._create()
        except (CommandError, KeyboardInterrupt):
            self._clean_up()
            raise

    def delete(self) -> None:
        """Deletes the machine; one that is not there is no error."""
        if self.state(assume="READY") is None:
            self.commands.say(f"{self.job.name} is not there: nothing to delete")
            return
        self.commands.run(self._deletion())

    def ssh(self, arguments: Sequence[str], worker: str = "all") -> list[str]:
        """The command that runs a program on workers."""
        return [
            *self._gcloud("tpu-vm", "ssh", self.job.name, f"--worker={worker}", "--quiet"),
            *self._route(),
            f"--command={shlex.join(arguments)}",
        ]

    def scp(self, sources: Sequence[str], target: str) -> list[str]:
        """The command that copies files to a folder on all workers."""
        return [
            *self._gcloud("tpu-vm", "scp", *sources, f"{self.job.name}:{target}"),
            *("--worker=all", "--quiet", *self._route()),
        ]

    def _create(self) -> None:
        job = self.job
        self.commands.run(
            [
                *self._gcloud("tpu-vm", "create", job.name),
                f"--accelerator-type={job.slice.type}",
                f"--version={job.options.runtime or job.slice.generation.runtime}",
                *(["--spot"] if job.options.spot else []),
            ]
        )

    def _clean_up(self) -> None:
        """After a creation that failed: nothing was there before it, so what is there is ours."""
        if self.job.options.keep:
            self.commands.say(f"--keep: {self.job.name} may exist and cost money")
            return
        self.commands.say("the creation failed; deleting what is left of it")
        self.delete_or_say_how()

    def delete_or_say_how(self) -> None:
        """Deletes a machine that may have been created a moment ago.

        If that fails, says what still costs money and how to end it; also where none is found.
        """
        try:
            for look in range(LOOKS):
                if look:
                    self.commands.sleep(LOOK_SECONDS)
                if self.state(assume="READY") is not None:
                    self.commands.run(self._deletion())
                    return
            self.commands.say(
                f"{self.job.name} was not found in {LOOKS} looks, so nothing was deleted; whether "
                f"it turns up later: {shlex.join(self._listed())}"
            )
        except (UserError, KeyboardInterrupt) as error:
            left = f"{self.job.name} MAY STILL COST MONEY"
            self.commands.say_how(self._deletion(), left, error)

    def _listed(self) -> list[str]:
        return self._gcloud(self.group, "list", "--format=json(name,state)")

    def _deletion(self) -> list[str]:
        return [*self._gcloud(self.group, "delete", self.job.name), "--quiet"]

    def _gcloud(self, group: str, verb: str, *rest: str) -> list[str]:
        return ["gcloud", "compute", "tpus", group, verb, *rest, *self.where]

    def _route(self) -> list[str]:
        return ["--internal-ip"] if self.job.options.internal_ip else []


def _state(record: dict) -> str:
    state = record["state"]
    return state["state"] if isinstance(state, dict) else state  # a queued resource nests it


if __name__ == "__main__":
    sys.exit(guarded(main))
