"""Before anything is compiled: are all processes the same program, with the same config?

Two that differ would hang in their first collective, or train on different batches without a word.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.parallel import coordination

_PACKAGES = ("mmjax", "tfds_builders")
_SHOWN = 4  # differences in a message


def agree(what: str, mine: Mapping[str, Any], remedy: str) -> None:
    """Compares JSON values across the processes; every process calls it.

    Args:
      remedy: what to do where they differ.

    Raises:
      UserError: one has others than process 0; the keys and the process are named.
    """
    if coordination.processes() == 1:
        return
    mine = {"host": socket.gethostname(), "values": json.loads(json.dumps(dict(mine)))}
    key = coordination.turn(what)
    if coordination.process():
        coordination.tell(f"{key}/{coordination.process()}", mine)
        # Where something differs, process 0 ends all.
        coordination.from_main(True, f"that all have the same {what}")
        return
    for number in range(1, coordination.processes()):
        with coordination.still_waiting(f"{what} of process {number}", coordination.TIMEOUT_S):
            try:
                other = coordination.ask(f"{key}/{number}")
            except TimeoutError as error:
                raise UserError(
                    f"process {number} has not told its {what}: look at its log, and start the "
                    "command again."
                ) from error
        _check_same(what, number, mine, other, remedy)
    coordination.from_main(True, f"that all have the same {what}")


def program(versions: Mapping[str, str]) -> dict[str, str]:
    """What must be the same on every machine: versions, and the code itself."""
    return {
        **versions,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "libtpu": _version("libtpu"),
        "mmjax's code": _code_digest(),
    }


def flat(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"config.train.lr": 1}."""
    found = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.{key}")
        else:
            found[f"{path}.{key}"] = value
    return found


def _check_same(what: str, number: int, mine: Mapping, other: Mapping, remedy: str) -> None:
    ours, theirs = mine["values"], other["values"]
    names = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
    if not names:
        return
    shown = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in names[:_SHOWN])
    more = f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise UserError(
        f"process {number} ({other['host']}) and process 0 ({mine['host']}) do not have the same "
        f"{what} ({shown}{more}): {remedy}."
    )


def _code_digest() -> str:
    """Of the Python files of this installation."""
    state, root = hashlib.sha256(), Path(__file__).parents[2]
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            state.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return state.hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
