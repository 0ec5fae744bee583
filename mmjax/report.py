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
from mmjax.metrics.bootstrap import paired_bootstrap
from mmjax.metrics.retrieval import RankCounts, RetrievalMetric
from mmjax.results import Result, read_results

RECALLS = ("recall@1", "recall@5", "recall@10", "recall_sum")
WINNER, STAND_IN = "★", "‡"
COLUMNS = (
    "model", "measured on", "R@1", "R@5", "R@10", "sum", "95 % of sum", "dev sum",
    "looks at test", "training",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """One table, ready to be drawn: a title, rows of text under COLUMNS, notes below."""

    title: str
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
    """Published and measured rows of `table` by falling sum of recalls.

    Results of other tasks are passed over; runs of this task that never looked at the test split
    are named in a note, since a row cannot be placed without it. Raises UserError where no result
    belongs to the table.
    """
    published = importlib.resources.files("mmjax.published") / f"{table}.json"
    published = json.loads(published.read_text("utf-8"))
    split, home = published["split"], published["dataset"]
    results = [r for r in results if r.task == published["task"]]
    if not results:
        raise UserError(
            f"No result for table {table}: it needs a run of the task {published['task']!r} "
            "(see configs/), or other folders."
        )
    placed = [r for r in results if split in r.metrics]
    for r in placed:
        _check_recalls(r, split)
    marks, notes = _winners(placed, split)
    rows = [(row["recall_sum"], _published_row(row)) for row in published["rows"]]
    for r in placed:
        row = _measured_row(r, split, home, marks.get(r.path, ""))
        rows.append((r.metrics[split]["recall_sum"], row))
    rows.sort(key=lambda x: -x[0])  # stable: a published figure stands before an equal one
    if published["rows"]:
        notes = [f"Published: {published['source']}. {published['note']}", *notes]
    notes += [_chance(r) for r in placed if r.cross_validation]
    if any(r.dataset["name"] != home for r in placed):
        notes.append(f"{STAND_IN} another dataset: not comparable with the published rows.")
    left_out = sorted(r.name for r in results if split not in r.metrics)
    if left_out:
        notes.append(f"Without figures on {split}, left out: {', '.join(left_out)}.")
    return Report(published["title"], [row for _, row in rows], notes)


def terminal(report: Report) -> str:
    """Aligned plain text."""
    table = [COLUMNS, *report.rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            _pad(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([report.title, "", *(line.rstrip() for line in lines), "", *report.notes])


def markdown(report: Report) -> str:
    """A Markdown table with its notes as a list."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = ["---:" if _is_number(i) else "---" for i in range(len(COLUMNS))]
    body = [line(COLUMNS), line(rule), *(line(row) for row in report.rows)]
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
            f"<thead>{line(COLUMNS, 'th')}</thead>",
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


def _check_recalls(r: Result, split: str) -> None:
    for name in RECALLS:
        if not math.isfinite(r.metrics[split].get(name, math.nan)):
            raise UserError(
                f"{r.path}: metrics.{split}.{name} is no number: evaluate the run again."
            )


def _winners(results: Sequence[Result], split: str) -> tuple[dict[Any, str], list[str]]:
    """Marks by path of result, and one note per dataset with at least two measured rows."""
    marks, notes = {}, []
    groups: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        groups.setdefault((r.dataset["name"], r.dataset["fingerprint"]), []).append(r)
    for (dataset, _), group in sorted(groups.items()):
        if len(group) < 2:
            continue
        first, second = sorted(group, key=lambda r: -r.metrics[split]["recall_sum"])[:2]
        pair = f"{first.label} against {second.label} on {dataset}"
        values = _paired_values(first, second, split)
        if values is None:
            notes.append(f"No winner: {pair} cannot be paired, figures per query are missing.")
            continue
        difference, low, high = paired_bootstrap(*values)
        figures = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}] (paired bootstrap, 95 %)"
        if low > 0:
            marks[first.path] = f" {WINNER}"
            notes.append(f"{WINNER} {pair}: {figures}.")
        else:
            notes.append(f"No winner: {pair}: {figures} includes 0.")
    return marks, notes


def _paired_values(a: Result, b: Result, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Each query's part of the sum in both results, in the same order; None if they do not pair."""
    by_id = []
    for result in (a, b):
        rows = result.per_example.get(split)
        if rows is None:
            return None
        counts = RankCounts(*(np.asarray(rows[k]) for k in ("greater", "equal", "equal_after")))
        values = RetrievalMetric().recall_sum(counts)
        expected = result.metrics[split]["recall_sum"]
        if len(values) == 0 or abs(values.mean() - expected) > 0.01:
            raise UserError(
                f"{result.path}: its figures per query do not give its recall_sum on {split} "
                f"({expected:.2f}): evaluate the run again."
            )
        by_id.append(dict(zip(rows["ids"], values, strict=True)))
    if by_id[0].keys() != by_id[1].keys():
        return None
    return np.array(list(by_id[0].values())), np.array([by_id[1][i] for i in by_id[0]])


def _published_row(row: Mapping[str, Any]) -> list[str]:
    loss = f", {row['loss']}" if row["loss"] else ""
    recalls = [f"{row[name]:.1f}" for name in RECALLS]
    return [row["model"] + loss, "published", *recalls, "", "", "", ""]


def _measured_row(r: Result, split: str, home: str, mark: str) -> list[str]:
    figures = r.metrics[split]
    recalls = [f"{figures[name]:.1f}" for name in RECALLS]
    size = r.dataset["sizes"].get(split)
    measured_on = f"{r.dataset['name']} {split}" + (f" ({size:,})" if size else "")
    if r.dataset["name"] != home:
        measured_on += f" {STAND_IN}"
    dev = ""
    if "recall_sum" in r.metrics.get("dev", {}):
        dev = f"{r.metrics['dev']['recall_sum']:.1f} {_interval(r, 'dev')}".strip()
    machine = r.device["machine"]
    if r.device["processes"] > 1:
        machine += f" x {r.device['processes']}"
    return [
        r.label + mark,
        measured_on,
        *recalls,
        _interval(r, split) or "–",
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


def _interval(r: Result, split: str) -> str:
    bounds = r.intervals.get(split, {}).get("recall_sum")
    return f"[{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _is_number(column: int) -> bool:
    return column not in (0, 1, len(COLUMNS) - 1)


def _pad(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if _is_number(column) else cell.ljust(width)


if __name__ == "__main__":
    sys.exit(run())
