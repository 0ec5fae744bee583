"""What a benchmark leaves: one JSON file with everything that its figures depend on.

    {"benchmark", "command", "date", "machine", "versions", "load_average": {"before", "after"},
     "settings", "cases": [{"name", "unit", "clock", "amount", "reference", "contenders": {
         NAME: {"seconds": [...], "rate": {...}, "ratio": {...}, ...}}}]}

The table of a case is drawn from it (`benchmarks.tables`).
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from etils import epath

from mmjax.errors import UserError
from mmjax.observe import environment

Document = dict[str, Any]

COLUMNS = ("", "{unit}", "lowest to highest", "ratio to {reference}", "lowest to highest")


def run(
    name: str,
    arguments: Sequence[str],
    libraries: Sequence[str],
    settings: dict[str, Any],
    measure: Callable[[], list[dict[str, Any]]],
    out: str | None,
) -> Document:
    """Measures the cases, prints their tables, and writes the document to `out`.

    Args:
      arguments: of the command line.
      libraries: whose versions matter beside those that mmjax always names.
    """
    before = os.getloadavg()
    cases = measure()
    found = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {**environment.device(), "cpu": cpu_model()},
        "versions": environment.versions() | {x: metadata.version(x) for x in libraries},
        "load_average": {"before": list(before), "after": list(os.getloadavg())},
        "settings": settings,
        "cases": cases,
    }
    for case in cases:
        print(terminal(case), end="\n\n")
    if out is not None:
        path = epath.Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"results in {out}")
    return found


def read(path: Any) -> Document:
    """A document that `run` wrote.

    Raises:
      UserError: it cannot be read, or a part of it is missing.
    """
    try:
        found = json.loads(epath.Path(path).read_text())
        for case in found["cases"]:
            table(case)
        if not isinstance(found["command"], str):
            raise TypeError("command is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no result of a benchmark ({type(error).__name__}: {error}): run the "
            "benchmark again."
        ) from error
    return found


def table(case: dict[str, Any]) -> list[list[str]]:
    """A case as rows of text, the header first."""
    reference = case["reference"]
    extra = list(case.get("extra", {}))
    header = [column.format(unit=case["unit"], reference=reference) for column in COLUMNS]
    rows = [header + extra]
    for name, values in case["contenders"].items():
        rate, ratio = values["rate"], values["ratio"]
        cells = [name, _number(rate["median"]), _range(rate)]
        cells += ["1", ""] if name == reference else [_number(ratio["median"]), _range(ratio)]
        rows.append(cells + [_number(values["extra"][x]) for x in extra])
    return rows


def terminal(case: dict[str, Any]) -> str:
    """A case as aligned plain text."""
    rows = table(case)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([case["name"], *lines])


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    try:
        text = epath.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def command_line() -> list[str]:
    """The arguments that this process was given."""
    return sys.argv[1:]


def _range(values: dict[str, float]) -> str:
    return f"{_number(values['low'])} to {_number(values['high'])}"


def _number(value: float) -> str:
    """Three digits that mean something, thousands separated."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
