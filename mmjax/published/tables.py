"""Published tables: their figures, the commands that measure each row, and which run is one of it.

A file holds `{title, task, dataset, split, source, note, variant, figures, rows}`. A row with
published figures may have `commands`, the arguments of `mmjax.main` in the order in which they are
run, `match`, what the config of its last run must say: a value, a list of values of which it is
one (null: the key may be missing too), or "*": anything but null; and where that run starts from
others, `stages`, what their configs must say, the first run's first. `encoders` is for readers.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmjax.config import suggestion
from mmjax.errors import UserError

ANYTHING = "*"
# What stands in the commands of rows and is not this project's -> what it is.
_PLACES = {
    "coco_captions": "MSCOCO with its captions, which TFDS prepares "
    "(tfds_builders/coco_captions/README.md)",
    "COCO_REGIONS": "a folder with features of 36 regions of each of MSCOCO's photos "
    "(tfds_builders/region_files.py)",
    "REGIONS": "the same of PhotoChat's photos",
}


@dataclass(frozen=True)
class PublishedRow:
    """Attributes:
    name: of the row, unique in its table; also the last part of its run's working directory.
    figures: name of a metric -> published value, in percent.
    commands, match, stages, encoders: see the module.
    """

    name: str
    model: str
    loss: str | None
    figures: Mapping[str, float]
    commands: Sequence[str] = ()
    match: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()
    encoders: str = ""

    @property
    def label(self) -> str:
        return f"{self.model}, {self.loss}" if self.loss else self.model

    def is_run_of(
        self, config: Mapping[str, Any], parents: Sequence[Mapping[str, Any]] = ()
    ) -> bool:
        """Whether a run has the row's model, loss, encoders and training before.

        Args:
          config: the run's.
          parents: what it was started from, as its result tells (`mmjax.artifacts.parent`). Of
            runs that are told without their config nothing is known, and no stage is one of them.
        """
        if not self.match or not _has(config, self.match):
            return False
        if not self.stages:
            return True
        before = list(_stages(parents))
        return len(before) == len(self.stages) and all(map(_has, before[::-1], self.stages))

    def listing(self) -> str:
        """The row's name and encoders, and the commands that measure it, for a shell."""
        about = f"# {self.label}" + (f"; {self.encoders}" if self.encoders else "")
        return "\n".join([about, *(f"python -m mmjax.main {c}" for c in self.commands)])


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
    """What a config answers that stands for a table: all of its rows, and how to go on."""
    table = load_table(name)
    return UserError(
        f"{table.variant} is a table of {len(table.rows)} rows and no single run: model, loss, "
        f"encoders and commands of each are\n\n{listed(table.rows)}\n\n"
        "Give the commands of one of them; those of the rows that are not measured yet are "
        f"printed by `{commands_command(name)}`."
    )


def listed(rows: Sequence[PublishedRow]) -> str:
    """Their listings, below what the capital letters in the commands stand for."""
    commands = " ".join(command for row in rows for command in row.commands)
    places = [
        f"# {name}: {text}" for name, text in _PLACES.items() if re.search(rf"={name}\b", commands)
    ]
    return "\n\n".join(["\n".join(places)] * bool(places) + [row.listing() for row in rows])


def commands_command(name: str) -> str:
    """The command that prints the commands of a table's rows."""
    return f"python -m mmjax.report --table={name} --commands"


def _row(record: Mapping[str, Any]) -> PublishedRow:
    told = ("commands", "match", "stages", "encoders")
    own = {"name", "model", "loss", *told}
    figures = {key: value for key, value in record.items() if key not in own}
    kept = {key: record[key] for key in told if key in record}
    return PublishedRow(record["name"], record["model"], record.get("loss"), figures, **kept)


def _stages(parents: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Configs of the runs that a run goes on from, the last one's first."""
    for parent in parents:
        if parent.get("kind") == "init_from":
            yield parent.get("config", {})
            yield from _stages(parent.get("parents", ()))


def _has(config: Mapping[str, Any], match: Mapping[str, Any]) -> bool:
    return all(_suits(_value(config, key), wanted) for key, wanted in match.items())


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
