"""A table of results as text for a terminal, as Markdown, and as a page that stands alone."""

from __future__ import annotations

import base64
import enum
import hashlib
import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template


class Kind(enum.Enum):
    """Where a row's figures are from."""

    PUBLISHED = "published"
    MEASURED = "measured"
    STAND_IN = "stand-in"


@dataclass(frozen=True)
class Row:
    """Attributes:
    cells: texts, one per column.
    """

    kind: Kind
    cells: Sequence[str]


@dataclass(frozen=True)
class Section:
    """Rows under a heading of their own; "" for none."""

    heading: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Report:
    """One table, ready to be drawn: a title, columns, rows in sections, notes below."""

    title: str
    columns: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str]

    @property
    def rows(self) -> list[Sequence[str]]:
        """The cells of all rows."""
        return [row.cells for section in self.sections for row in section.rows]

    @property
    def numbers(self) -> list[bool]:
        """Of each column, whether it holds numbers: all but the first two and the last."""
        last = len(self.columns) - 1
        return [column not in (0, 1, last) for column in range(last + 1)]


def terminal(report: Report) -> str:
    """Aligned plain text."""
    widths = [max(map(len, column)) for column in zip(report.columns, *report.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, report.numbers, strict=True)
        )
        return "  ".join(aligned).rstrip()

    lines = [line(report.columns), "  ".join("-" * width for width in widths)]
    for section in report.sections:
        if section.heading:
            lines += ["", section.heading, ""]
        lines += [line(row.cells) for row in section.rows]
    return "\n".join([report.title, "", *lines, "", *report.notes])


def markdown(report: Report) -> str:
    """A Markdown table per section, with the notes as a list."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = ["---:" if number else "---" for number in report.numbers]
    lines = [f"**{report.title}**", ""]
    for section in report.sections:
        if section.heading:
            lines += [f"*{section.heading}*", ""]
        lines += [line(report.columns), line(rule), *(line(row.cells) for row in section.rows), ""]
    return "\n".join([*lines, *(f"* {note}" for note in report.notes)])


def html_page(report: Report) -> str:
    """A page that stands alone: styles are in it, and its security policy lets nothing else in."""
    style = _part("report_page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(_part("report_page.html")).substitute(
        title=html.escape(report.title),
        style=style,
        style_hash=f"sha256-{digest}",
        head="".join(
            f'<th scope="col"{_number(number)}>{html.escape(column)}</th>'
            for column, number in zip(report.columns, report.numbers, strict=True)
        ),
        bodies="\n".join(_body(report, section) for section in report.sections),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in report.notes),
    )


FORMATS: dict[str, Callable[[Report], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "html": html_page,
}


def _body(report: Report, section: Section) -> str:
    lines = ["<tbody>"]
    if section.heading:
        lines.append(
            f'<tr class="heading"><th scope="rowgroup" colspan="{len(report.columns)}">'
            f"{html.escape(section.heading)}</th></tr>"
        )
    for row in section.rows:
        lines.append(f'<tr class="{row.kind.value}">{"".join(_cells(report, row))}</tr>')
    return "\n".join([*lines, "</tbody>"])


def _cells(report: Report, row: Row) -> Iterator[str]:
    for k, (cell, number) in enumerate(zip(row.cells, report.numbers, strict=True)):
        text = html.escape(cell)
        yield (
            f"<td{_number(number)}>{text}</td>" if k else f'<th scope="row" dir="auto">{text}</th>'
        )


def _number(number: bool) -> str:
    return ' class="number"' if number else ""


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
