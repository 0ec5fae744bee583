"""JobSets that Kueue holds: it alone suspends them, until there is quota for them.

They are stopped by their Workload, which Kueue makes for each of them: one that is not active
gets no quota, and loses what it has. Their pods are ended as always, with time to save.

Source: Kueue's concepts "Workload" (Active) and "Preemption" (its label `job-uid`).
"""

from __future__ import annotations

import json
from typing import Any

from launch.commands import Commands
from mmjax.errors import UserError

QUEUE = "kueue.x-k8s.io/queue-name"
# Says that we have stopped the JobSet: Kueue suspends those that wait, too.
STOPPED = "mmjax/stopped"


def queued(found: dict[str, Any]) -> bool:
    """Whether a JobSet as it is in the cluster is in the hands of Kueue."""
    return QUEUE in (found.get("metadata", {}).get("labels") or {})


def stopped(found: dict[str, Any]) -> bool:
    """Whether we have stopped a JobSet; one that Kueue holds for want of quota is not."""
    if not found["spec"].get("suspend"):
        return False
    return not queued(found) or STOPPED in (found["metadata"].get("annotations") or {})


def stop(found: dict[str, Any], kubectl: list[str], commands: Commands) -> None:
    """Marks the JobSet as stopped and takes its quota away."""
    workloads = _workloads(found, kubectl, commands)
    # First, so that whoever watches does not take it for one that waits again.
    commands.run([*kubectl, "annotate", *_jobset(found), f"{STOPPED}=true", "--overwrite"])
    _activate(workloads, kubectl, commands, active=False)


def resume(found: dict[str, Any], kubectl: list[str], commands: Commands) -> None:
    """Puts a JobSet that was stopped back into its queue."""
    _activate(_workloads(found, kubectl, commands), kubectl, commands, active=True)
    commands.run([*kubectl, "annotate", *_jobset(found), f"{STOPPED}-"])


def _workloads(found: dict[str, Any], kubectl: list[str], commands: Commands) -> list[str]:
    mine = f"--selector=kueue.x-k8s.io/job-uid={found['metadata']['uid']}"
    told = commands.ask([*kubectl, "get", "workloads.kueue.x-k8s.io", mine, "--output=json"])
    names = [workload["metadata"]["name"] for workload in json.loads(told)["items"]]
    if not names:
        raise UserError(
            f"Kueue has made no Workload for the JobSet {found['metadata']['name']} yet: try again "
            "in a minute, or `delete` it, which saves too."
        )
    return names


def _activate(names: list[str], kubectl: list[str], commands: Commands, *, active: bool) -> None:
    patch = f"--patch={json.dumps({'spec': {'active': active}}, separators=(',', ':'))}"
    for name in names:
        commands.run([*kubectl, "patch", "workloads.kueue.x-k8s.io", name, "--type=merge", patch])


def _jobset(found: dict[str, Any]) -> list[str]:
    return ["jobset", found["metadata"]["name"]]
