"""TPU slices by queued resources: waits for capacity instead of being refused.

    python -m launch.queued train --name=scan --project=P --zone=Z --accelerator=v5litepod-64 \\
        --spot --relaunches=20 --wait_hours=24 --workdir=gs://BUCKET/runs/scan -- --config=...

The verbs are those of `launch.tpu_vm`; `delete` removes the request and the machine together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from launch import slices, tpu_vm, watching
from launch.arguments import guarded, parse
from launch.commands import CommandError, Commands

POLL_SECONDS = 60
# States from which a request does not come back.
HOPELESS = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")


def main(argv: Sequence[str]) -> int:
    job = parse("queued", "Runs mmjax on queued TPU VMs.", slices.VERBS, argv, _add_arguments)
    commands = Commands(job.dry_run)
    return slices.do(Queued(job, commands), job, commands)


class Queued(tpu_vm.TpuVm):
    """A slice that is asked for and waited for; its one node has the request's name."""

    group = "queued-resources"

    def _create(self) -> None:
        job = self.job
        hours = job.options.wait_hours
        self.commands.run(
            [
                *self._gcloud(self.group, "create", job.name),
                f"--node-id={job.name}",
                f"--accelerator-type={job.slice.type}",
                f"--runtime-version={job.options.runtime or job.slice.generation.runtime}",
                # The queue forgets the request by itself, should this program be killed.
                f"--valid-until-duration={hours}h",
                *(["--spot"] if job.options.spot else []),
            ]
        )
        self._wait(hours)

    def _deletion(self) -> list[str]:
        # Without --force the request is refused deletion while its machine is there.
        return [*super()._deletion(), "--force"]

    def _wait(self, hours: int) -> None:
        self.commands.say(f"every {POLL_SECONDS} s until it is ACTIVE, for at most {hours} h")
        unanswered, last = 0, None
        for _ in range(hours * 3600 // POLL_SECONDS):
            try:
                state = self.state(assume="ACTIVE")
                unanswered = 0
            except CommandError:
                unanswered += 1
                if unanswered > watching.UNANSWERED:
                    raise
                state = last
            if state == "ACTIVE":
                return
            if state in HOPELESS or (state is None and last is not None):
                raise CommandError(
                    f"the request {self.job.name} ended in state {state or 'deleted'}: no "
                    "capacity, no quota, or a runtime that the accelerator does not have.",
                    1,
                )
            if state != last:
                self.commands.say(f"{self.job.name}: {state}")
                last = state
            self.commands.sleep(POLL_SECONDS)
        raise CommandError(f"no capacity for {self.job.name} within {hours} h.", 1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    tpu_vm.add_arguments(parser)
    parser.add_argument("--wait_hours", type=int, default=24, help="for capacity; default: 24")


if __name__ == "__main__":
    sys.exit(guarded(main))
