"""From the results of runs to a table: what was measured beside what was published.

    python -m mmjax.report [RESULTS_DIR...] --table=photochat_retrieval [--format=markdown|html]
    python -m mmjax.report results --table=photochat_retrieval --update=README.md
    python -m mmjax.report --table=photochat_retrieval --commands

No figure in a document is written by hand. A measured row says what it was measured on, with an
interval, and is called the winner only where a paired bootstrap against the runner-up allows it.
With --commands: how to run the published rows that have no measured one.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from etils import epath

from mmjax import storage
from mmjax.errors import UserError
from mmjax.figures import FIGURES, Figures
from mmjax.metrics.bootstrap import as_sums, paired_bootstrap
from mmjax.published.tables import (
    PublishedRow,
    PublishedTable,
    commands_command,
    listed,
    load_table,
)
from mmjax.report_formats import FORMATS, Kind, Report, Row, Section, markdown
from mmjax.results import Result, read_results

WINNER, STAND_IN = "★", "‡"
_DEFAULT_FOLDER = "results"
# What a dataset is, in words; any other goes by its name and folder.
_KNOWN = {"photochat/release": "real PhotoChat", "photochat/demo": "generated"}
_SEEN = {
    "labels": "labels only",
    "pixels": "pixels only",
    "both": "pixels and labels",
    "regions": "regions",
    "boxes": "pixels in boxes",
}
_ASKED = {"both": "both speakers ask", "marked": "both speakers ask, marked"}


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with one sentence for a bad input."""
    parser = argparse.ArgumentParser(prog="mmjax.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folders",
        nargs="*",
        help=f"searched for result.json at any depth; default: {_DEFAULT_FOLDER}",
    )
    parser.add_argument("--table", required=True, help="a file of mmjax/published, without .json")
    parser.add_argument(
        "--format", choices=FORMATS, help="default: terminal, or markdown where it is not one"
    )
    parser.add_argument(
        "--update", metavar="FILE", help="put the table, as Markdown, between FILE's markers"
    )
    parser.add_argument(
        "--commands", action="store_true", help="print how to run the rows that are not measured"
    )
    given = parser.parse_args(argv)
    try:
        table = load_table(given.table)
        if given.commands:
            print(commands(table, _results(given.folders, needed=False)))
            return 0
        report = make_report(table, _results(given.folders, needed=True))
        if given.update:
            update_document(given.update, table.name, markdown(report))
            print(f"{given.update}: table {table.name} is up to date")
        else:
            drawn = given.format or ("terminal" if sys.stdout.isatty() else "markdown")
            print(FORMATS[drawn](report))
    except UserError as error:
        print(f"mmjax.report: {error}", file=sys.stderr)
        return 2
    return 0


def make_report(table: PublishedTable, results: Sequence[Result]) -> Report:
    """Published and measured rows of `table` by the falling chief figure of its task.

    A run on the table's own dataset with the model, loss and encoders of a published row stands
    right below it; runs on other datasets stand in a section of their own. Results of other tasks
    are passed over; runs of this task that never looked at the test split are named in a note,
    since a row cannot be placed without it. Raises UserError where no result belongs to the table.
    """
    figures, split = FIGURES[table.figures or table.task], table.split
    results = [r for r in results if _belongs(r, table)]
    if not results:
        raise UserError(
            f"No result for table {table.name}: it needs a run of the task {table.task!r} "
            "(see configs/), or other folders."
        )
    placed = [r for r in results if split in r.metrics]
    for r in placed:
        _check_figures(r, figures, split)
    own, others = (
        sorted(
            (r for r in placed if _at_home(r, table) == home),
            key=lambda r: -r.metrics[split][figures.chief_metric],
        )
        for home in (True, False)
    )
    marks, notes = {}, []
    for rows in filter(None, (own, others)):
        mark, told = _winner(rows, figures, split)
        marks |= mark
        notes += told
    measured = {r.path: _measured_row(r, figures, table, marks.get(r.path, "")) for r in placed}
    sections = [Section("", _paired(table, own, measured, figures))]
    if others:
        heading = "On other data: not comparable with the rows above" if sections[0].rows else ""
        sections.append(Section(heading, [measured[r.path] for r in others]))
        notes.append(f"{STAND_IN} another dataset: not comparable with the published rows.")
    if table.rows:
        notes = [f"Published: {table.source}. {table.note}", *notes]
        if missing := len(not_measured(table, placed)):
            notes.append(
                f"Not measured yet: {missing} of the {len(table.rows)} published rows; "
                f"{commands_command(table.name)} prints how."
            )
    notes += [_chance(r) for r in placed if r.cross_validation]
    left_out = sorted(r.name for r in results if split not in r.metrics)
    if left_out:
        notes.append(f"Without figures on {split}, left out: {', '.join(left_out)}.")
    columns = (
        *("model", "measured on", *figures.columns),
        *_own_columns(figures, split),
    )
    return Report(table.title, columns, [s for s in sections if s.rows], notes)


def commands(table: PublishedTable, results: Sequence[Result]) -> str:
    """The commands of the published rows without a measured one, each under the row's name."""
    rows = [row for row in not_measured(table, results) if row.commands]
    if not rows:
        return f"# every published row of {table.name} is measured"
    return listed(rows)


def not_measured(table: PublishedTable, results: Sequence[Result]) -> list[PublishedRow]:
    """The published rows of which no result on the table's own dataset and split is a run."""
    measured = [
        r for r in results if _belongs(r, table) and _at_home(r, table) and table.split in r.metrics
    ]
    return [r for r in table.rows if not any(r.is_run_of(m.config, m.parents) for m in measured)]


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
        storage.write_text(path, updated)


def _belongs(r: Result, table: PublishedTable) -> bool:
    if FIGURES.get(r.task) is not FIGURES[table.task]:
        return False
    # Of figures that not every run of the task has, those that have them.
    chief = FIGURES[table.figures].chief_metric if table.figures else ""
    return not chief or any(chief in figures for figures in r.metrics.values())


def _check_figures(r: Result, figures: Figures, split: str) -> None:
    for name in figures.columns.values():
        if not math.isfinite(r.metrics[split].get(name, math.nan)):
            raise UserError(
                f"{r.path}: metrics.{split}.{name} is no number: evaluate the run again."
            )


def _winner(
    results: Sequence[Result], figures: Figures, split: str
) -> tuple[dict[Any, str], list[str]]:
    """The mark of a section's first row by its path, and a note on it against the runner-up.

    Args:
      results: of one section, by the falling chief figure; the runner-up is the next on the same
        dataset.
    """
    rivals = [r for r in results[1:] if _data(r) == _data(results[0])]
    if not rivals:
        return {}, []
    first, second = results[0], rivals[0]
    pair = f"{first.label} against {second.label} on {first.dataset['name']}"
    if not all(split in r.per_example for r in (first, second)):
        return {}, [f"No winner: {pair} cannot be paired, figures per query are missing."]
    found = _compared(first, second, figures, split)
    if found is None:
        return {}, [f"No winner: {pair} were not asked the same queries."]
    difference, low, high = found
    shown = _signed(difference, low, high, figures.decimals)
    if low > 0:
        return {first.path: f" {WINNER}"}, [f"{WINNER} {pair}: {shown}."]
    return {}, [f"No winner: {pair}: {shown} includes 0."]


def _data(result: Result) -> tuple[str, str | None]:
    """The dataset and, where it is a folder's, the folder."""
    return result.dataset["name"], result.config.get("data", {}).get("manual_dir")


def _signed(difference: float, low: float, high: float, decimals: int) -> str:
    one, *bounds = (f"{x:+.{decimals}f}" for x in (difference, low, high))
    return f"{one} [{', '.join(bounds)}] (paired bootstrap, 95 %)"


def _compared(
    a: Result, b: Result, figures: Figures, split: str
) -> tuple[float, float, float] | None:
    """The difference of the chief figure with its interval; None where other queries were asked.

    Queries pair by their ids, and by nothing that tells how the data were read: a fingerprint is
    another one where a run saw pixels too, or a later version of the builder. The pool of a split
    is the photos that its queries ask for, so that equal queries of a dataset have equal pools;
    what folders hold that users made, only the folder's name tells.
    """
    sides = []
    for result in (a, b):
        rows = result.per_example[split]
        values, weights, groups = figures.parts(rows)
        expected = result.metrics[split][figures.chief_metric]
        sums = as_sums(values, weights) if rows["ids"] else None
        if sums is None or abs(sums.value - expected) > 0.01:
            raise UserError(
                f"{result.path}: its figures per query do not give its {figures.chief_metric} on "
                f"{split} ({expected:.2f}): evaluate the run again."
            )
        sides.append((rows["ids"], sums, groups))
    (ids, sums, groups), (other_ids, other_sums, _) = sides
    place = {name: i for i, name in enumerate(other_ids)}
    if place.keys() != set(ids):
        return None
    order = [place[name] for name in ids]
    return paired_bootstrap(sums, other_sums.ordered(order), groups=groups)


def _paired(
    table: PublishedTable,
    own: Sequence[Result],
    measured: Mapping[str, Row],
    figures: Figures,
) -> list[Row]:
    """Published rows, each with its measured ones below it, and the measured rows without one."""
    chief, alone = figures.chief_metric, {r.path: r for r in own}
    groups = []
    for row in table.rows:
        same = [r for r in own if r.path in alone and row.is_run_of(r.config, r.parents)]
        for r in same:
            del alone[r.path]
        rows = [_published_row(row, figures, table.split), *(measured[r.path] for r in same)]
        groups.append((row.figures[chief], rows))
    groups += [(r.metrics[table.split][chief], [measured[r.path]]) for r in alone.values()]
    groups.sort(key=lambda x: -x[0])  # stable: a published figure stands before an equal one
    return [row for _, rows in groups for row in rows]


def _own_columns(figures: Figures, split: str) -> list[str]:
    """Headings of what only a measured row tells."""
    dev = [] if split == "dev" else [f"dev {figures.chief}"]
    return [f"95 % of {figures.chief}", *dev, "looks at test", "training"]


def _published_row(row: PublishedRow, figures: Figures, split: str) -> Row:
    values = [row.figures.get(name) for name in figures.columns.values()]
    shown = ["" if value is None else f"{value:.{figures.decimals}f}" for value in values]
    own = ["" for _ in _own_columns(figures, split)]
    return Row(Kind.PUBLISHED, [row.label, "published", *shown, *own])


def _measured_row(r: Result, figures: Figures, table: PublishedTable, mark: str) -> Row:
    chief, split, decimals = figures.chief_metric, table.split, figures.decimals
    shown = [
        _with_interval(r, name, split, decimals)
        if heading in figures.bounded
        else f"{r.metrics[split][name]:.{decimals}f}"
        for heading, name in figures.columns.items()
    ]
    dev = ""
    if chief in r.metrics.get("dev", {}):
        dev = _with_interval(r, chief, "dev", decimals)
    machine = r.device["machine"]
    if r.device["processes"] > 1:
        machine += f" x {r.device['processes']}"
    cells = [
        r.label + mark,
        _measured_on(r, table),
        *shown,
        _interval(r, chief, split, decimals) or "–",
        *([] if split == "dev" else [dev]),
        str(r.test_looks),
        f"{_duration(r.wall_seconds)} on {machine}",
    ]
    own = _at_home(r, table)
    return Row(Kind.MEASURED if own else Kind.STAND_IN, cells)


def _at_home(r: Result, table: PublishedTable) -> bool:
    """Whether the run's data are the table's."""
    return fnmatch.fnmatchcase(r.dataset["name"], table.dataset)


def _measured_on(r: Result, table: PublishedTable) -> str:
    """Which data, how many queries, what of a photo was seen: "real PhotoChat test (1,000)", and
    whose turns were the query where they were not the sharer's alone."""
    name, size = r.dataset["name"], r.dataset["sizes"].get(table.split)
    folder = PurePath(_key(r.config, "data", "manual_dir") or "").name
    text = _KNOWN.get(name, f"{name} {folder}".strip())
    if not _at_home(r, table):
        text = f"{STAND_IN} stand-in: {text}"
    text += f" {table.split}" + (f" ({size:,})" if size else "")
    if "recall_sum" in FIGURES[table.task].columns.values():
        # Results from before there were pixels do not say that labels were all there was.
        seen = _key(r.config, "task", "candidate") or "labels"
        text += f", {_SEEN.get(seen, seen)}"
        pixels = _key(r.config, "data", "pixels") or "real"
        text += f", {pixels}" if pixels != "real" and seen != "labels" else ""
        asked = _ASKED.get(_key(r.config, "task", "query"))
        if asked and name.startswith("photochat/"):  # captions have no speakers
            text += f", {asked}"
    return text


def _key(config: Mapping[str, Any], section: str, key: str) -> Any:
    found = config.get(section)
    return found.get(key) if isinstance(found, Mapping) else None


def _results(folders: Sequence[str], *, needed: bool) -> list[Result]:
    """Of the folders, else of the default one, which may be missing where nothing is needed."""
    if not folders and not needed and not epath.Path(_DEFAULT_FOLDER).is_dir():
        return []
    found = read_results(folders or [_DEFAULT_FOLDER])
    return [own for result in found for own in result.tasks.values() or (result,)]


def _chance(r: Result) -> str:
    test = r.cross_validation["permutation_test"]["recall@10"]
    return (
        f"{r.label}: R@10 of {test['observed']:.1f} against {test['chance']:.1f} by chance, "
        f"p = {test['p_value']:.4f} (permutation test over photos)."
    )


def _with_interval(r: Result, metric: str, split: str, decimals: int) -> str:
    value = f"{r.metrics[split][metric]:.{decimals}f}"
    return f"{value} {_interval(r, metric, split, decimals)}".strip()


def _interval(r: Result, metric: str, split: str, decimals: int) -> str:
    bounds = r.intervals.get(split, {}).get(metric)
    return "[{}, {}]".format(*(f"{x:.{decimals}f}" for x in bounds)) if bounds else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(run())
