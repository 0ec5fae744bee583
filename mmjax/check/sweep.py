"""One config on many slices and at many batch sizes, as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from mmjax.check.measure import Measured, measure
from mmjax.check.report import as_json as measured_json
from mmjax.check.report import gib
from mmjax.check.subject import Subject
from mmjax.check.topology import known_slices
from mmjax.errors import UserError
from mmjax.observe.chips import CHIPS

_HEAD = ("slice", "chips", "batch", "bytes per device", "fits", "bound ms", "examples/s", "by",
         "chip-seconds per 1,000 examples")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """Attributes:
    slice, batch_size, chips: of the row.
    found: what was measured; None where it cannot be.
    reason: why not.
    """

    slice: str
    batch_size: int
    chips: int
    found: Measured | None
    reason: str = ""

    @property
    def fits(self) -> bool:
        return self.found is not None and self.found.fits is True

    @property
    def cost(self) -> float:
        """Chips x bound / examples: seconds; infinite where nothing is known or it does not fit."""
        if not self.fits or self.found.bound is None:
            return math.inf
        return self.chips * self.found.bound.seconds / self.batch_size


def candidates(name: str) -> list[str]:
    """The usual slices of a generation up to this one; this one alone where it is none of them."""
    known = known_slices([name.partition(":")[0]])
    return known[: known.index(name) + 1] if name in known else [name]


def row(subject: Subject, devices: Sequence[jax.Device], name: str, batch_size: int) -> Row:
    """Compiles a run's steps for one row; what does not divide is told in the row."""
    chip = CHIPS.get(devices[0].device_kind)
    chips = len(devices) // (1 if chip is None else chip.devices) or 1
    try:
        found = measure(subject, devices, slice=name)
    except UserError as error:
        return Row(name, batch_size, chips, None, str(error))
    return Row(name, batch_size, chips, found)


def text(label: str, rows: Sequence[Row]) -> str:
    """The table, and what follows from it."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    lines = [label, ""]
    for row in cells:
        lines.append("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)))
    lines += ["", *(f"{r.slice}, batch {r.batch_size}: {r.reason}" for r in rows if r.reason)]
    fitting = [row for row in rows if row.fits]
    if not fitting:
        what = "nothing fits." if fits(rows) is False else "whether any fits is not known."
        return "\n".join([*lines, what])
    smallest = min(fitting, key=lambda row: (row.chips, -row.batch_size))
    lines.append(f"smallest that fits: {smallest.slice} ({smallest.chips} chips)")
    cheapest = min(fitting, key=lambda row: row.cost)
    if math.isfinite(cheapest.cost):
        lines.append(
            f"cheapest per example, at the bounds: {cheapest.slice} at a batch of "
            f"{cheapest.batch_size}"
        )
    return "\n".join(lines)


def fits(rows: Sequence[Row]) -> bool | None:
    """Whether any row does; None: of none that is known, and of some it is not."""
    if any(row.fits for row in rows):
        return True
    return None if any(row.found and row.found.fits is None for row in rows) else False


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "rows": [
            {
                "slice": row.slice,
                "batch_size": row.batch_size,
                "chips": row.chips,
                "fits": row.fits,
                "reason": row.reason,
                "chip_seconds_per_example": row.cost if math.isfinite(row.cost) else None,
                "measured": None if row.found is None else measured_json(row.found),
            }
            for row in rows
        ]
    }


def _cells(row: Row) -> tuple[str, ...]:
    found = row.found
    if found is None:
        return (row.slice, str(row.chips), str(row.batch_size), *["-"] * 6)
    bound, memory = found.bound, gib(found.train.memory.total)
    fits = {True: "yes", False: "no", None: "?"}[found.fits]
    if bound is None:
        return (row.slice, str(row.chips), str(row.batch_size), memory, fits, *["-"] * 4)
    rate = f"{row.batch_size / bound.seconds:,.0f}"
    cost = f"{1e3 * row.cost:,.2f}" if math.isfinite(row.cost) else "-"
    return (row.slice, str(row.chips), str(row.batch_size), memory, fits,
            f"{1e3 * bound.seconds:,.2f}", rate, bound.by, cost)  # fmt: skip
