"""Puts the tables of all results into `benchmarks/README.md`, between their markers.

python -m benchmarks.tables [--results=benchmarks/results] [--update=benchmarks/README.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import document
from mmjax.errors import UserError
from mmjax.report import update_document

HERE = Path(__file__).parent


def main(argv: Sequence[str]) -> None:
    """Reads every JSON file of a folder of results and updates the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.tables")
    parser.add_argument("--results", default=HERE / "results")
    parser.add_argument("--update", default=HERE / "README.md", metavar="FILE")
    arguments = parser.parse_args(argv)
    paths = sorted(Path(arguments.results).glob("*.json"))
    if not paths:
        raise UserError(f"{arguments.results} holds no .json file: run a benchmark with --out.")
    for path in paths:
        update_document(str(arguments.update), path.stem, markdown(document.read(path)))


def markdown(found: document.Document) -> str:
    """The document's tables, and what they were made with."""
    blocks = [f"`{found['command']}`", ""]
    for case in found["cases"]:
        blocks += [f"**{case['name']}**", "", *_table(document.table(case)), ""]
    return "\n".join(blocks + _notes(found))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    lines = [[cell.replace("|", r"\|") for cell in row] for row in (rows[0], rule, *rows[1:])]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _notes(found: document.Document) -> list[str]:
    machine, load = found["machine"], found["load_average"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    notes = [
        f"Median, lowest and highest of the rounds. {machine['machine']}, {machine['cpu']}; "
        f"{found['date']}; load of the machine in the minute before {load['before'][0]:.1f}, in "
        f"the last one {load['after'][0]:.1f}.",
        f"{versions}.",
    ]
    extra: dict[str, Any] = {}
    for case in found["cases"]:
        extra |= case.get("extra", {})
    notes += [f"{name}: {meaning}." for name, meaning in extra.items()]
    return [f"* {note}" for note in notes]


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.tables: {error}")
