"""Checks of values that come from outside: type, presence, size, each named by where it stands.

A record that fails a check raises `BadRecordError`, which a builder counts against the user's limit
(`tfds_builders.base`); the limits on sizes are far above real dialogues and keep a damaged file
from filling memory.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from etils import epath

from mmjax.errors import UserError

MAX_FILE_BYTES = 256 * 2**20
MAX_TURNS = 50_000
MAX_TEXT = 100_000
MAX_LABELS = 10_000

T = TypeVar("T")
_NAMES = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "{...}"}


class BadRecordError(Exception):
    """One record cannot be used: the message names file, record and field."""


@dataclass(frozen=True)
class Place:
    """Where a value stands, for messages: `train/train_00.json, record 3, field dialogue[2]`."""

    record: str
    path: str = ""

    def __truediv__(self, key: str | int) -> Place:
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return Place(self.record, self.path + step)

    def __str__(self) -> str:
        return f"{self.record}, field {self.path}" if self.path else self.record


def field(record: Mapping[str, Any], key: str, kind: type[T], place: Place) -> T:
    """`record[key]`, which must be there and of the stated JSON type."""
    if key not in record:
        raise BadRecordError(f"{place / key}: it is missing")
    return typed(record[key], kind, place / key)


def typed(value: Any, kind: type[T], place: Place) -> T:
    """The value itself, if it is of the JSON type `kind` and not larger than the limits."""
    # bool is an int in Python, and true is not a speaker in JSON.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRecordError(f"{place}: it should be {_NAMES[kind]} and is {_shown(value)}")
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise BadRecordError(f"{place}: {len(value):,} characters, the limit is {MAX_TEXT:,}")
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise BadRecordError(
                f"{place}: it holds half of a surrogate pair, which is not Unicode"
            )
    return value


def at_most(items: list[T], limit: int, place: Place) -> list[T]:
    """The list itself, if it has no more than `limit` entries."""
    if len(items) > limit:
        raise BadRecordError(f"{place}: {len(items):,} entries, the limit is {limit:,}")
    return items


def only(record: Mapping[str, Any], known: Collection[str], place: Place) -> None:
    """Refuses keys that nobody reads: most are misspelt ones."""
    for key in record:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise BadRecordError(f"{place}: unknown field {key!r}; {hint}")


def read_bytes(path: epath.Path, shown: str) -> bytes:
    """The file's content; missing, unreadable and oversized files are the user's to mend."""
    try:
        size = path.stat().length
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"{shown} has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}; split the data or "
                "correct the file."
            )
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{shown} cannot be read ({reason}); check the file.") from error


def parse_json(data: bytes, shown: str) -> Any:
    """The JSON value; `BadRecordError` says where it breaks."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRecordError(f"{shown} is not UTF-8 text at byte {error.start}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRecordError(f"{shown} is not JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise BadRecordError(f"{shown} is nested too deeply") from error
    except ValueError as error:  # a number with thousands of digits
        raise BadRecordError(f"{shown} is not JSON that can be read: {error}") from error


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
