"""Golden tables of how each config's state is cut over a mesh of data 2 x fsdp 2 x tensor 2.

    python -m benchmarks.shardings            # names what differs; exit code 1
    python -m benchmarks.shardings --write    # accepts it: benchmarks/golden/shardings/*.txt

A difference is seen in the review of the change that makes it. Nothing is compiled.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence

from benchmarks import document
from benchmarks.configs import CASES, GOLDEN
from mmjax.check.shardings import sharding_table
from mmjax.check.subject import open_subject
from mmjax.errors import UserError

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def main(argv: Sequence[str]) -> int:
    """Compares or writes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.shardings")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",") if arguments.only else list(CASES)
    differs = False
    for name in names:
        if arguments.write:
            path(name).parent.mkdir(parents=True, exist_ok=True)
            path(name).write_text(table(name))
        elif found := difference(name):
            differs = True
            print("\n".join(found))
    return int(differs)


def table(name: str) -> str:
    """The table of a case, made anew."""
    return sharding_table(open_subject(CASES[name].values()), MESH)


def difference(name: str) -> list[str]:
    """Lines of a diff between the golden table and one made anew; empty where they are equal."""
    kept = path(name).read_text() if path(name).exists() else ""
    lines = (text.splitlines() for text in (kept, table(name)))
    return list(difflib.unified_diff(*lines, f"{name}, golden", f"{name}, now", lineterm="", n=0))


def path(name: str):
    return GOLDEN / "shardings" / f"{name}.txt"


if __name__ == "__main__":
    try:
        sys.exit(main(document.command_line()))
    except UserError as error:
        sys.exit(f"benchmarks.shardings: {error}")
