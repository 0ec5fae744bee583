"""`--mode=check`: does a config fit where it is to run, and what can it do there at most?"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from mmjax.check import report
from mmjax.check import sweep as sweeps
from mmjax.check.measure import measure
from mmjax.check.subject import open_subject
from mmjax.check.topology import slice_devices
from mmjax.errors import UserError

logger = logging.getLogger(__name__)

LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class Found:
    """Attributes:
    text: for people.
    values: the same as JSON values.
    fits: False where it does not, or where no row of a sweep does; None: not known.
    """

    text: str
    values: dict[str, Any]
    fits: bool | None


def named_slices(config: Mapping[str, Any]) -> list[str]:
    """What the config names, or this machine."""
    return [config.get("mesh", {}).get("slice") or LOCAL]


def check(config: Mapping[str, Any], names: Sequence[str], slices: int = 1) -> Found:
    """The report of a config (plain values) on one slice, or several of a kind.

    Raises:
      UserError: more than one name, or as `slice_devices`, `open_subject` and `measure`.
    """
    if len(names) > 1:
        raise UserError(
            f"--topology={','.join(names)}: several are compared by --sweep; name one without it."
        )
    _begin(names, slices)
    subject = open_subject(config)
    devices = _devices(names[0], slices)
    logger.info("compiling for %d x %s", len(devices), devices[0].device_kind)
    found = measure(subject, devices, slice=_name(names[0], slices))
    return Found(report.text(found), report.as_json(found), found.fits)


def sweep(
    config: Mapping[str, Any], names: Sequence[str], slices: int, batch_sizes: Sequence[str]
) -> Found:
    """A table over slices and batches: the smallest slice that fits, the cheapest per example.

    Args:
      names: of slices; of one alone, its generation's usual ones up to that one are tried.
      batch_sizes: global ones, as written on the command line; empty: the config's.

    Raises:
      UserError: as `check`, a batch size that is no positive number, or nothing that could be
        compiled.
    """
    for size in batch_sizes:
        if not size.isdigit() or int(size) < 1:
            raise UserError(f"--batch_sizes={size!r} is no positive whole number.")
    _begin(names, slices)
    subject = open_subject(config)
    sizes = [int(size) for size in batch_sizes] or [subject.options["train"].global_batch_size]
    names = sweeps.candidates(names[0]) if len(names) == 1 and names[0] != LOCAL else names
    rows = []
    for name in names:
        devices = _devices(name, slices)
        for size in sizes:
            logger.info("compiling for %s, a batch of %d", _name(name, slices), size)
            rows.append(sweeps.row(subject.with_batch(size), devices, _name(name, slices), size))
    if all(row.found is None for row in rows):
        raise UserError(rows[0].reason)
    return Found(sweeps.text(subject.label, rows), sweeps.as_json(rows), sweeps.fits(rows))


def write(workdir: epath.PathLike, found: Found) -> epath.Path:
    """Writes `check.json` and nothing else into a working directory; its path."""
    path = epath.Path(workdir).expanduser() / "check.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found.values, indent=1) + "\n")
    return path


def _begin(names: Sequence[str], slices: int) -> None:
    """Leaves this machine's accelerators alone where slices are compiled for: none is needed."""
    if LOCAL not in names:
        jax.config.update("jax_platforms", jax.config.jax_platforms or "cpu")
    elif slices > 1:
        raise UserError("--slices goes with a --topology: these devices are what they are.")


def _devices(name: str, slices: int) -> list[jax.Device]:
    return jax.devices() if name == LOCAL else slice_devices(name, slices)


def _name(name: str, slices: int) -> str:
    return f"{slices} x {name}" if slices > 1 else name
