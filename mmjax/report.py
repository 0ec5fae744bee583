"""From the results of runs to a table: what was measured beside what was published.

    python -m mmjax.report RESULTS_DIR... --table=photochat_retrieval [--format=markdown]
    python -m mmjax.report results --table=photochat_retrieval --update=README.md

No figure in a document is written by hand. A measured row says what it was measured on, with an
interval, and is called the winner only where a paired bootstrap against the runner-up allows it.
"""

from __future__ import annotations

import argparse
import html
import importlib.resources
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from mmjax.errors import UserError
from mmjax.figures import FIGURES, Figures
from mmjax.metrics.base import ratio
from mmjax.metrics.bootstrap import paired_bootstrap
from mmjax.results import Result, read_results

WINNER, STAND_IN = "★", "‡"


@dataclass(frozen=True)
class Report:
    """One table, ready to be drawn: a title, rows of text under headings, notes below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with one sentence for a bad input."""
    parser = argparse.ArgumentParser(prog="mmjax.report", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="searched for result.json at any depth")
    parser.add_argument("--table", required=True, choices=tables(), help="which table to make")
    parser.add_argument("--format", choices=FORMATS, default="terminal")
    parser.add_argument(
        "--update", metavar="FILE", help="put the table, as Markdown, between FILE's markers"
    )
    arguments = parser.parse_args(argv)
    try:
        report = make_report(arguments.table, read_results(arguments.folders))
        if arguments.update:
            update_document(arguments.update, arguments.table, markdown(report))
            print(f"{arguments.update}: table {arguments.table} is up to date")
        else:
            print(FORMATS[arguments.format](report))
    except UserError as error:
        print(f"mmjax.report: {error}", file=sys.stderr)
        return 2
    return 0


def tables() -> list[str]:
    """Names of the tables that can be made: those with published figures."""
    folder = importlib.resources.files("mmjax.published")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".json"))


def make_report(table: str, results: Sequence[Result]) -> Report:
    """Published and measured rows of `table` by the falling chief figure of its task.

    Results of other tasks are passed over; runs of this task that never looked at the test split
    are named in a note, since a row cannot be placed without it. Raises UserError where no result
    belongs to the table.
    """
    published = importlib.resources.files("mmjax.published") / f"{table}.json"
    published = json.loads(published.read_text("utf-8"))
    split, home = published["split"], published["dataset"]
    figures = FIGURES[published["task"]]
    results = [r for r in results if r.task == published["task"]]
    if not results:
        raise UserError(
            f"No result for table {table}: it needs a run of the task {published['task']!r} "
            "(see configs/), or other folders."
        )
    placed = [r for r in results if split in r.metrics]
    for r in placed:
        _check_figures(r, figures, split)
    marks, notes = _winners(placed, figures, split)
    rows = [(row[figures.chief_metric], _published_row(row, figures)) for row in published["rows"]]
    for r in placed:
        row = _measured_row(r, figures, split, home, marks.get(r.path, ""))
        rows.append((r.metrics[split][figures.chief_metric], row))
    rows.sort(key=lambda x: -x[0])  # stable: a published figure stands before an equal one
    if published["rows"]:
        notes = [f"Published: {published['source']}. {published['note']}", *notes]
    notes += [_chance(r) for r in placed if r.cross_validation]
    if any(r.dataset["name"] != home for r in placed):
        notes.append(f"{STAND_IN} another dataset: not comparable with the published rows.")
    left_out = sorted(r.name for r in results if split not in r.metrics)
    if left_out:
        notes.append(f"Without figures on {split}, left out: {', '.join(left_out)}.")
    columns = (
        *("model", "measured on", *figures.columns),
        *(f"95 % of {figures.chief}", f"dev {figures.chief}", "looks at test", "training"),
    )
    return Report(published["title"], columns, [row for _, row in rows], notes)


def terminal(report: Report) -> str:
    """Aligned plain text."""
    table = [report.columns, *report.rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(report.columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, _numbers(report), strict=True)
        )
        for row in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([report.title, "", *(line.rstrip() for line in lines), "", *report.notes])


def markdown(report: Report) -> str:
    """A Markdown table with its notes as a list."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = ["---:" if number else "---" for number in _numbers(report)]
    body = [line(report.columns), line(rule), *(line(row) for row in report.rows)]
    notes = [f"* {note}" for note in report.notes]
    return "\n".join([f"**{report.title}**", "", *body, "", *notes])


def html_page(report: Report) -> str:
    """A page that stands alone."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells) + "</tr>"

    title = html.escape(report.title)
    style = "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2em .6em}"
    return "\n".join(
        [
            f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style>',
            f"<h1>{title}</h1>",
            "<table>",
            f"<thead>{line(report.columns, 'th')}</thead>",
            "<tbody>",
            *(line(row, "td") for row in report.rows),
            "</tbody></table>",
            *(f"<p>{html.escape(note)}</p>" for note in report.notes),
        ]
    )


FORMATS: dict[str, Callable[[Report], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "html": html_page,
}


def update_document(path: str, table: str, text: str) -> None:
    """Replaces what stands between `<!-- report:TABLE -->` and `<!-- /report -->` in the file.

    Doing it twice changes nothing more. Raises UserError for a file that cannot be read, and where
    the pair of markers is not there exactly once.
    """
    start, end = f"<!-- report:{table} -->", "<!-- /report -->"
    try:
        document = epath.Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    # Up to the nearest end marker, and never across the start of another table.
    pattern = re.escape(start) + r"(?:(?!<!-- report:).)*?" + re.escape(end)
    if document.count(start) != 1 or not re.search(pattern, document, re.DOTALL):
        raise UserError(
            f"{path} must hold the line {start!r} once and {end!r} below it: put them where the "
            "table should stand."
        )
    block = f"{start}\n{text}\n{end}"
    updated = re.sub(pattern, lambda _: block, document, flags=re.DOTALL)
    if updated != document:
        epath.Path(path).write_text(updated)


def _check_figures(r: Result, figures: Figures, split: str) -> None:
    for name in figures.columns.values():
        if not math.isfinite(r.metrics[split].get(name, math.nan)):
            raise UserError(
                f"{r.path}: metrics.{split}.{name} is no number: evaluate the run again."
            )


def _winners(
    results: Sequence[Result], figures: Figures, split: str
) -> tuple[dict[Any, str], list[str]]:
    """Marks by path of result, and one note per dataset with at least two measured rows."""
    marks, notes = {}, []
    groups: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        groups.setdefault((r.dataset["name"], r.dataset["fingerprint"]), []).append(r)
    for (dataset, _), group in sorted(groups.items()):
        if len(group) < 2:
            continue
        first, second = sorted(group, key=lambda r: -r.metrics[split][figures.chief_metric])[:2]
        pair = f"{first.label} against {second.label} on {dataset}"
        found = _compared(first, second, figures, split)
        if found is None:
            notes.append(f"No winner: {pair} cannot be paired, figures per query are missing.")
            continue
        difference, low, high = found
        shown = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}] (paired bootstrap, 95 %)"
        if low > 0:
            marks[first.path] = f" {WINNER}"
            notes.append(f"{WINNER} {pair}: {shown}.")
        else:
            notes.append(f"No winner: {pair}: {shown} includes 0.")
    return marks, notes


def _compared(
    a: Result, b: Result, figures: Figures, split: str
) -> tuple[float, float, float] | None:
    """The difference of the chief figure with its interval; None if the two do not pair."""
    sides = []
    for result in (a, b):
        rows = result.per_example.get(split)
        if rows is None:
            return None
        values, weights, groups = figures.parts(rows)
        expected = result.metrics[split][figures.chief_metric]
        if len(values) == 0 or abs(ratio(values, weights) - expected) > 0.01:
            raise UserError(
                f"{result.path}: its figures per query do not give its {figures.chief_metric} on "
                f"{split} ({expected:.2f}): evaluate the run again."
            )
        weights = np.ones(len(values)) if weights is None else weights
        sides.append((rows["ids"], values, weights, groups))
    (ids, values, weights, groups), (other_ids, *others) = sides
    place = {name: i for i, name in enumerate(other_ids)}
    if place.keys() != set(ids):
        return None
    order = [place[name] for name in ids]
    other_values, other_weights = others[0][order], others[1][order]
    return paired_bootstrap(values, other_values, weights=(weights, other_weights), groups=groups)


def _published_row(row: Mapping[str, Any], figures: Figures) -> list[str]:
    loss = f", {row['loss']}" if row.get("loss") else ""
    shown = [f"{row[name]:.1f}" if name in row else "" for name in figures.columns.values()]
    return [row["model"] + loss, "published", *shown, "", "", "", ""]


def _measured_row(r: Result, figures: Figures, split: str, home: str, mark: str) -> list[str]:
    chief = figures.chief_metric
    shown = [f"{r.metrics[split][name]:.1f}" for name in figures.columns.values()]
    size = r.dataset["sizes"].get(split)
    measured_on = f"{r.dataset['name']} {split}" + (f" ({size:,})" if size else "")
    if r.dataset["name"] != home:
        measured_on += f" {STAND_IN}"
    dev = ""
    if chief in r.metrics.get("dev", {}):
        dev = f"{r.metrics['dev'][chief]:.1f} {_interval(r, chief, 'dev')}".strip()
    machine = r.device["machine"]
    if r.device["processes"] > 1:
        machine += f" x {r.device['processes']}"
    return [
        r.label + mark,
        measured_on,
        *shown,
        _interval(r, chief, split) or "–",
        dev,
        str(r.test_looks),
        f"{_duration(r.wall_seconds)} on {machine}",
    ]


def _chance(r: Result) -> str:
    test = r.cross_validation["permutation_test"]["recall@10"]
    return (
        f"{r.label}: R@10 of {test['observed']:.1f} against {test['chance']:.1f} by chance, "
        f"p = {test['p_value']:.4f} (permutation test over photos)."
    )


def _interval(r: Result, metric: str, split: str) -> str:
    bounds = r.intervals.get(split, {}).get(metric)
    return f"[{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _numbers(report: Report) -> list[bool]:
    """Of each column, whether it holds numbers."""
    last = len(report.columns) - 1
    return [column not in (0, 1, last) for column in range(last + 1)]


if __name__ == "__main__":
    sys.exit(run())
