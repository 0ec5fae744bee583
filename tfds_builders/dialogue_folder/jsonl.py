"""Reads the user's dialogues: one JSON object per line, strict about what it does not know.

    {"id": "a1", "turns": [{"speaker": 0, "text": "Look at him!"},
                           {"speaker": 0, "photos": [{"id": "p1", "labels": ["Dog"]}]}]}

`id` may be left out (the line number stands in), and so may `text`, `photos`, `labels` and `url`.
A speaker is a number from 0, or a name; names are numbered in the order of their first turn. A
photo may have a `file_name`, which is its id where it has no other; `photo_folder` reads the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.errors import UserError
from tfds_builders.checks import (
    MAX_LABELS,
    MAX_TURNS,
    BadRecordError,
    Place,
    at_most,
    field,
    only,
    parse_json,
    typed,
)

MAX_LINE = 16 * 2**20
MAX_SPEAKERS = 10_000

PhotoId = Callable[[Mapping[str, Any], Place], str]


def digest(path: epath.Path) -> str:
    """SHA-256 of the file."""
    state = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                state.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return state.hexdigest()


def read(
    files: Mapping[str, tuple[epath.Path, str]], split: str
) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The dialogues of a split with their line numbers; `files`: split -> (path, SHA-256)."""
    path, expected = files[split]
    seen: dict[str, str] = {}
    for number, place, line in lines(path, expected):
        try:
            yield str(number), parse(parse_json(line, place.record), number, place, seen)
        except BadRecordError as bad:
            yield str(number), bad


def lines(path: epath.Path, expected: str) -> Iterator[tuple[int, Place, bytes]]:
    """The lines with content, their numbers from 1, and their place for messages.

    Raises `UserError` at the end when the file's SHA-256 is not the expected one.
    """
    state, shown = hashlib.sha256(), str(path)
    for number, line in enumerate(_lines(path), start=1):
        state.update(line)
        if line.strip():
            yield number, Place(f"{shown}, line {number}"), line
    if state.hexdigest() != expected:
        raise UserError(f"{path} changed while it was read; run the command again.")


def own_id(photo: Mapping[str, Any], place: Place) -> str:
    """The photo's id, else the name of its file."""
    file = field(photo, "file_name", str, place) if "file_name" in photo else ""
    name = file if file and "id" not in photo else field(photo, "id", str, place)
    if not name:
        raise BadRecordError(f"{place / 'id'}: it is empty; two photos are told apart by their ids")
    return name


def parse(
    record: Any, number: int, place: Place, seen: dict[str, str], photo_id: PhotoId = own_id
) -> Dialogue:
    """The dialogue on line `number`; `seen` holds the ids that were used before.

    `photo_id(photo, place)` gives the id of a photo as it stands in the record.

    Raises `BadRecordError` for unknown or missing fields, other types, and sizes beyond the limits.
    """
    record = typed(record, dict, place)
    only(record, ("id", "turns"), place)
    name = field(record, "id", str, place) if "id" in record else str(number)
    if name in seen:
        raise BadRecordError(f"{place / 'id'}: {name!r} was used before, in {seen[name]}")
    inside = place / "turns"
    turns = at_most(field(record, "turns", list, place), MAX_TURNS, inside)
    speakers: dict[Any, int] = {}
    dialogue = Dialogue(
        name, tuple(_turn(turn, speakers, photo_id, inside / k) for k, turn in enumerate(turns))
    )
    seen[name] = place.record
    return dialogue


def _turn(turn: Any, speakers: dict[Any, int], photo_id: PhotoId, place: Place) -> Turn:
    turn = typed(turn, dict, place)
    only(turn, ("speaker", "text", "photos"), place)
    text = field(turn, "text", str, place) if "text" in turn else ""
    photos = field(turn, "photos", list, place) if "photos" in turn else []
    return Turn(
        _speaker(turn, speakers, place),
        text,
        tuple(_photo(photo, photo_id, place / "photos" / k) for k, photo in enumerate(photos)),
    )


def _speaker(turn: Mapping[str, Any], speakers: dict[Any, int], place: Place) -> int:
    kind = str if isinstance(turn.get("speaker"), str) else int
    speaker = field(turn, "speaker", kind, place)
    if any(not isinstance(other, kind) for other in speakers):
        raise BadRecordError(
            f"{place / 'speaker'}: numbers and names in one dialogue; use one of them"
        )
    if kind is int and not 0 <= speaker < MAX_SPEAKERS:
        raise BadRecordError(
            f"{place / 'speaker'}: it should be from 0 to {MAX_SPEAKERS - 1} and is {speaker}"
        )
    return speakers.setdefault(speaker, speaker if kind is int else len(speakers))


def _photo(photo: Any, photo_id: PhotoId, place: Place) -> Photo:
    photo = typed(photo, dict, place)
    only(photo, ("id", "file_name", "labels", "url"), place)
    return Photo(
        photo_id(photo, place),
        texts(photo, "labels", place),
        field(photo, "url", str, place) if "url" in photo else "",
    )


def texts(record: Mapping[str, Any], key: str, place: Place) -> tuple[str, ...]:
    """A list of texts; empty where the field is not there."""
    found = field(record, key, list, place) if key in record else []
    inside = place / key
    return tuple(
        typed(text, str, inside / k) for k, text in enumerate(at_most(found, MAX_LABELS, inside))
    )


def _lines(path: epath.Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise UserError(
                        f"{path}, line {number} has more than {MAX_LINE:,} bytes; write one "
                        "dialogue per line."
                    )
                yield line
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: epath.Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}); check the file.")
