"""The pods of a JobSet, whoever has made it: their logs and what they came to."""

from __future__ import annotations

import json
from collections.abc import Sequence

from launch.commands import Commands
from launch.exit_codes import combined


def selector(name: str) -> str:
    """Tells kubectl which pods."""
    return f"--selector=jobset.sigs.k8s.io/jobset-name={name}"


def logs(name: str) -> list[str]:
    """What kubectl is told to follow the logs of all pods."""
    return [
        "logs",
        selector(name),
        "--prefix",
        "--follow",
        "--tail=200",
        "--max-log-requests=1000",
    ]


def exit_code(name: str, kubectl: Sequence[str], commands: Commands) -> int:
    """What the pods of a JobSet that has failed ended with; 1 where none is left to be asked.

    Args:
      kubectl: the program, and which cluster.
    """
    told = commands.ask([*kubectl, "get", "pods", selector(name), "--output=json"])
    ended = [
        state["terminated"]
        for pod in json.loads(told)["items"]
        for status in pod.get("status", {}).get("containerStatuses", [])
        if "terminated" in (state := status.get("state", {}))
    ]
    ended.sort(key=lambda t: t.get("finishedAt") or "")
    return combined([t["exitCode"] for t in ended]) or 1
