"""Reads what runs leave behind: `result.json` and the figures per query beside it.

A table in a document is only as good as these files, so that a key that is missing or of another
kind is an error that names file and key, never a hole in the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etils import epath

from mmjax import storage
from mmjax.errors import UserError
from mmjax.figures import FIGURES

FORMAT_VERSION = 1

# Key (dotted where nested) -> kinds that are allowed. More keys may stand in the file.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "label": str,
    "command": str,
    "system": str,
    "task": str,
    "dataset.name": str,
    "dataset.fingerprint": str,
    "dataset.sizes": dict,
    "metrics": dict,
    "intervals": dict,
    "config": dict,
    "versions": dict,
    "device.kind": str,
    "device.count": int,
    "device.processes": int,
    "device.machine": str,
    "wall_seconds": (int, float),
    "steps": int,
    "test_looks": int,
}


@dataclass(frozen=True)
class Result:
    """One run's final figures; the fields are `result.json`'s keys.

    Attributes:
      path: the file they were read from.
      metrics: figures by split, then by name; recalls in percent.
      intervals: (low, high) of 95 % by split, then by name; may lack either.
      per_example: lists over the examples by split, then by name ("ids", and what
        `mmjax.figures` names for the task); empty where the run left none, and then no comparison
        in pairs is possible.
      cross_validation: of several runs pooled, how they were (`mmjax.crossval`); else empty.
      wall_seconds: time of the whole run.
      test_looks: how often the run has been evaluated on the test split.
      parents: what it was started from, see `mmjax.artifacts.parent`; of results from before a
        run's parents told their config and parents, without these.
      tasks: of a mixture, its result in each task, as of a run of that task alone; else empty.
    """

    path: str
    name: str
    label: str
    command: str
    system: str
    task: str
    dataset: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, Sequence[float]]]
    per_example: Mapping[str, Mapping[str, Sequence[Any]]]
    cross_validation: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    device: Mapping[str, Any]
    wall_seconds: float
    steps: int
    test_looks: int
    parents: Sequence[Mapping[str, Any]] = ()
    tasks: Mapping[str, Result] = field(default_factory=dict)


def read_results(folders: Sequence[str]) -> list[Result]:
    """Every `result.json` at any depth under the folders, by path; each file once.

    Raises UserError for a folder that is not there, where nothing is found, and as `read_result`.
    """
    paths = set()
    for folder in map(epath.Path, folders):
        if not folder.is_dir():
            raise UserError(f"No folder {folder}: give the folders of finished runs.")
        paths.update(map(str, _find(folder if storage.is_remote(folder) else folder.resolve())))
    if not paths:
        where = ", ".join(map(str, folders))
        raise UserError(f"No result.json under {where}: a run writes it when it is finished.")
    return [read_result(path) for path in sorted(paths)]


def read_result(path: str) -> Result:
    """One result. Raises UserError where it is unreadable, of another version, or incomplete."""
    record = _read_json(path)
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {version!r}, this mmjax reads {FORMAT_VERSION}: evaluate "
            "the run again, or use the mmjax that wrote it."
        )
    if not isinstance(tasks := record.get("tasks", {}), dict):
        raise _bad(path, "tasks", tasks)
    whole = _result(path, record)
    found = {task: _result(path, _of_task(path, record, task)) for task in tasks}
    return replace(whole, tasks=found)


def _of_task(path: str, record: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What the record of a mixture says of one of its tasks."""
    own = record["tasks"][task]
    if not isinstance(own, dict):
        raise _bad(path, f"tasks.{task}", own)
    start, config = f"{task}/", record["config"]
    kept = {
        kind: {
            split: {n.removeprefix(start): x for n, x in figures.items() if n.startswith(start)}
            for split, figures in record[kind].items()
        }
        for kind in ("metrics", "intervals")
    }
    # Which dataset it was stands where a run of this task alone has it.
    brought = _section(_section(config, "mixture"), task)
    given = {key: brought[key] for key in ("dataset", "manual_dir") if key in brought}
    data = {**_section(config, "data"), **given}
    named = {"task": task, "dataset": own.get("dataset"), "config": {**config, "data": data}}
    return {**record, **kept, **named}


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _result(path: str, record: Mapping[str, Any]) -> Result:
    for key, kind in REQUIRED.items():
        value: Any = record
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _bad(path, key, value)
    _check_figures(path, record)
    fields = {key.split(".")[0]: record[key.split(".")[0]] for key in REQUIRED}
    return Result(
        path=path,
        per_example=_read_per_example(path, record),
        cross_validation=_read_cross_validation(path, record),
        parents=_read_parents(path, "parents", record.get("parents", [])),
        **fields,
    )


def _find(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():  # epath has no "**"
        if path.name == "result.json":
            yield path
        elif path.is_dir():
            yield from _find(path)


def _check_figures(path: str, record: Mapping[str, Any]) -> None:
    for split, size in record["dataset"]["sizes"].items():
        if not isinstance(size, int):
            raise _bad(path, f"dataset.sizes.{split}", size)
    for split, figures in record["metrics"].items():
        if not isinstance(figures, dict):
            raise _bad(path, f"metrics.{split}", figures)
        for name, value in figures.items():
            if not isinstance(value, int | float):
                raise _bad(path, f"metrics.{split}.{name}", value)
    for split, intervals in record["intervals"].items():
        if not isinstance(intervals, dict):
            raise _bad(path, f"intervals.{split}", intervals)
        for name, bounds in intervals.items():
            pair = isinstance(bounds, list) and len(bounds) == 2
            if not pair or not all(isinstance(x, int | float) for x in bounds):
                raise _bad(path, f"intervals.{split}.{name}", bounds)


def _read_cross_validation(path: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("cross_validation", {})
    if not found:
        return {}
    test = found.get("permutation_test") if isinstance(found, dict) else None
    test = test.get("recall@10") if isinstance(test, dict) else None
    for name in ("observed", "chance", "p_value"):
        value = test.get(name) if isinstance(test, dict) else None
        if not isinstance(value, int | float):
            raise _bad(path, f"cross_validation.permutation_test.recall@10.{name}", value)
    return found


def _read_parents(path: str, key: str, found: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(parent, dict) for parent in found):
        raise _bad(path, key, found)
    for parent in found:
        if not isinstance(parent.get("config", {}), dict):
            raise _bad(path, f"{key}.config", parent["config"])
        _read_parents(path, f"{key}.parents", parent.get("parents", []))
    return found


def _read_per_example(path: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    name, figures = record.get("per_example"), FIGURES.get(record["task"])
    if name is None or figures is None:
        return {}
    if not isinstance(name, str):
        raise _bad(path, "per_example", name)
    file = epath.Path(path).parent / name
    # Results may be kept without their largest file; only the comparison in pairs is lost then.
    if not file.exists():
        return {}
    splits = _read_json(str(file))
    if record["task"] in record.get("tasks", {}):
        splits = {
            split: rows.get(record["task"]) if isinstance(rows, dict) else rows
            for split, rows in splits.items()
        }
    for split, rows in splits.items():
        if not isinstance(rows, dict):
            raise _bad(str(file), split, rows)
        kinds = {"ids": (str, int), **figures.per_example}
        columns = {name: rows.get(name) for name in kinds}
        ids = columns["ids"]
        if (
            not all(isinstance(x, list) and len(x) == len(ids) for x in columns.values())
            or not all(isinstance(x, kinds[name]) for name in kinds for x in columns[name])
            or len(set(ids)) != len(ids)
        ):
            raise UserError(
                f"{file}, split {split}: {', '.join(kinds)} must be lists of one length, "
                "the ids all different, the rest numbers: evaluate the run again."
            )
    return splits


def _read_json(path: str) -> dict[str, Any]:
    try:
        record = json.loads(epath.Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path}: {error}. Evaluate the run again.") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} holds no JSON object: evaluate the run again.")
    return record


def _bad(path: str, key: str, value: Any) -> UserError:
    found = "is missing" if value is None else f"is {json.dumps(value)[:80]}"
    return UserError(f"{path}: {key} {found}: evaluate the run again.")
