"""Published tables: their figures, the commands that measure each row, and which run is one of it.

A file holds `{title, task, dataset, split, source, note, variant, figures, rows}`. A row with
published figures may have `commands`, the arguments of `mmjax.main` in the order in which they are
run, and `match`, what the config of its last run must say: a value, a list of values of which it is
one (null: the key may be missing too), or "*": anything but null.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmjax.config import suggestion
from mmjax.errors import UserError

ANYTHING = "*"


@dataclass(frozen=True)
class PublishedRow:
    """Attributes:
    name: of the row, unique in its table; also the last part of its run's working directory.
    figures: name of a metric -> published value, in percent.
    commands, match: see the module.
    """

    name: str
    model: str
    loss: str | None
    figures: Mapping[str, float]
    commands: Sequence[str] = ()
    match: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.model}, {self.loss}" if self.loss else self.model

    def is_run_of(self, config: Mapping[str, Any]) -> bool:
        """Whether a run with this config has the row's model, loss and encoders."""
        return bool(self.match) and all(
            _suits(_value(config, key), wanted) for key, wanted in self.match.items()
        )


@dataclass(frozen=True)
class PublishedTable:
    """Attributes:
    name: of the file.
    task, dataset, split: what its figures were measured on; "*" in a dataset's name stands for the
      digest that a private corpus has there.
    source, note: where the figures are from; "" for a table of measured rows alone.
    variant: the config that stands for the table as a whole; "" where there is none.
    figures: what stands in it, of `mmjax.figures.FIGURES`; "": what does of its task.
    """

    name: str
    title: str
    task: str
    dataset: str
    split: str
    rows: Sequence[PublishedRow]
    source: str = ""
    note: str = ""
    variant: str = ""
    figures: str = ""


def table_names() -> list[str]:
    """Names of the tables that can be made."""
    files = importlib.resources.files("mmjax.published").iterdir()
    return sorted(file.name[:-5] for file in files if file.name.endswith(".json"))


def load_table(name: str) -> PublishedTable:
    """One table. Raises UserError for a name that does not exist, with the closest that does."""
    if name not in table_names():
        raise UserError(f"table {name!r} does not exist{suggestion(name, table_names())}.")
    file = importlib.resources.files("mmjax.published") / f"{name}.json"
    record = json.loads(file.read_text("utf-8"))
    rows = [_row(row) for row in record.pop("rows")]
    return PublishedTable(name=name, rows=rows, **record)


def no_single_run(name: str) -> UserError:
    """What a config answers that stands for a table: how its rows are listed."""
    table = load_table(name)
    return UserError(
        f"{table.variant} is a table of {len(table.rows)} rows and no single run: "
        f"`{commands_command(name)}` prints the commands of the rows that are not measured yet."
    )


def commands_command(name: str) -> str:
    """The command that prints the commands of a table's rows."""
    return f"python -m mmjax.report --table={name} --commands"


def _row(record: Mapping[str, Any]) -> PublishedRow:
    own = {"name", "model", "loss", "commands", "match"}
    figures = {key: value for key, value in record.items() if key not in own}
    kept = {key: record[key] for key in ("commands", "match") if key in record}
    return PublishedRow(record["name"], record["model"], record.get("loss"), figures, **kept)


def _value(config: Mapping[str, Any], key: str) -> Any:
    """`config["a"]["b"]` for "a.b"; None where it is missing."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _suits(value: Any, wanted: Any) -> bool:
    if wanted == ANYTHING:
        return value is not None
    return value in wanted if isinstance(wanted, list) else value == wanted
