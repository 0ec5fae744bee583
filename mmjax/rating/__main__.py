"""People judge generated answers.

python -m mmjax.rating export --system=gpt=A.jsonl --system=knn=B.jsonl --out=DIR --key=FILE
python -m mmjax.rating table --key=FILE --sheet=DIR/rater_1.csv --sheet=... --out=TABLE.json
python -m mmjax.rating cases --system=gpt=A.jsonl --system=knn=B.jsonl --out=PAGE.html
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from etils import epath

from mmjax.errors import UserError
from mmjax.observe.answers_page import write_answers_page
from mmjax.rating.questions import QUESTIONNAIRES
from mmjax.rating.ratings import read_ratings
from mmjax.rating.sheets import drawn_items, write_sheets
from mmjax.rating.systems import Asked, read_systems
from mmjax.rating.tables import as_markdown, summarise


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = _parser().parse_args(argv)
    try:
        given.do(given)
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2
    return 0


def _export(given: argparse.Namespace) -> None:
    if given.raters < 1:
        raise UserError(f"--raters={given.raters}: there is at least one.")
    if given.seed < 0:
        raise UserError(f"--seed={given.seed}: a seed is 0 or more.")
    asked = read_systems(given.system)
    if given.table:
        asked = _bad(asked, _read_table(given.table), given.at_most)
    items = drawn_items(asked, len(asked) if given.count is None else given.count, given.seed)
    about = {
        "questionnaire": given.questionnaire,
        "raters": given.raters,
        "seed": given.seed,
        "references": given.references,
    }
    sheets = write_sheets(given.out, given.key, items, about)
    print(f"{len(items):,} answers in each of {len(sheets)} sheets in {given.out}")
    print(f"the key, which raters must not see: {given.key}")


def _table(given: argparse.Namespace) -> None:
    found = summarise(read_ratings(given.key, given.sheet))
    if given.out:
        _write(given.out, json.dumps(found, ensure_ascii=False, indent=1))
    print(as_markdown(found))


def _cases(given: argparse.Namespace) -> None:
    asked = read_systems(given.system)
    told = _read_table(given.table) if given.table else {}
    asked = asked if given.count is None else asked[: max(1, given.count)]
    examples = [
        {
            "id": question.id,
            "turns": question.turns,
            "references": question.references,
            "answers": [
                {"name": s, "text": text, "notes": _notes(told, s, question.id)}
                for s, text in question.answers.items()
            ],
        }
        for question in asked
    ]
    facts = {"questions": f"{len(examples):,}", "systems": ", ".join(asked[0].answers)}
    try:
        write_answers_page(given.out, examples, title="Answers side by side", about=facts)
    except OSError as error:
        raise UserError(f"--out={given.out} cannot be written ({error.strerror}).") from error
    print(f"the page to look at: {given.out}")


def _bad(asked: list[Asked], table: dict, most: float) -> list[Asked]:
    """Of each question the answers whose mean relevance is at most so much."""
    systems = table.get("relevance", {}).get("systems", {})
    left = []
    for question in asked:
        kept = {
            s: text
            for s, text in question.answers.items()
            if systems.get(s, {}).get("of", {}).get(question.id, most + 1) <= most
        }
        if kept:
            left.append(dataclasses.replace(question, answers=kept))
    if not left:
        raise UserError(
            f"--table has no answer of these systems with a relevance of at most {most:g}; raise "
            "--at_most, or name the table of their ratings."
        )
    return left


def _notes(table: dict, system: str, name: str) -> list[str]:
    found = {q: of["systems"].get(system, {}).get("of", {}).get(name) for q, of in table.items()}
    shown = {q: f"{x:.2g}" if isinstance(x, float) else x for q, x in found.items()}
    return [f"{question} {value}" for question, value in shown.items() if value is not None]


def _read_table(path: epath.Path) -> dict:
    """Question -> what `summarise` says of it."""
    try:
        questions = json.loads(path.read_text("utf-8"))["questions"]
        for of in questions.values():
            for figures in of["systems"].values():
                dict(figures["of"])
    except OSError as error:
        raise UserError(f"--table={path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--table={path} is no table that `table --out` wrote.") from error
    return questions


def _write(path: epath.Path, text: str) -> None:
    try:
        path.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"--out={path} cannot be written ({error.strerror}).") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmjax.rating", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do, what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=what)
        made.set_defaults(do=do)
        return made

    def systems(to: argparse.ArgumentParser) -> None:
        what = "a system's name and its predictions; once for each"
        to.add_argument("--system", action="append", required=True, metavar="NAME=FILE", help=what)
        to.add_argument("--count", type=int, help="questions; all where it is not given")
        to.add_argument("--table", type=epath.Path, help="what `table --out` wrote")

    export = command("export", _export, "writes blind sheets, one per rater, and their key")
    systems(export)
    export.add_argument("--questionnaire", choices=tuple(QUESTIONNAIRES), default="quality")
    export.add_argument("--out", type=epath.Path, required=True, help="folder for the raters")
    export.add_argument("--key", type=epath.Path, required=True, help="file, not in the folder")
    export.add_argument("--raters", type=int, default=3)
    export.add_argument("--seed", type=int, default=0)
    export.add_argument("--references", action="store_true", help="raters see what people said")
    most = "with --table: only answers with this mean relevance or less"
    export.add_argument("--at_most", type=float, default=1.5, help=most)

    table = command("table", _table, "reads filled sheets: means or shares, and agreement")
    table.add_argument("--key", type=epath.Path, required=True)
    table.add_argument("--sheet", type=epath.Path, action="append", required=True)
    table.add_argument("--out", type=epath.Path, help="also as JSON")

    cases = command("cases", _cases, "writes a page with all systems' answers side by side")
    systems(cases)
    cases.add_argument("--out", type=epath.Path, required=True, help="the page")
    return parser


if __name__ == "__main__":
    sys.exit(run())
