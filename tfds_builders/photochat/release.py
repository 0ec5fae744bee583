"""The released PhotoChat files: where they are, whether they are whole, what is in a record.

A record of the release is `{dialogue: [{message, share_photo, user_id}], dialogue_id,
photo_description, photo_url, photo_id}`. The description is "The photo has your <relation>
<Name>. Objects in the photo: l1, l2, ...": the name is usually spoken in the dialogue, so whoever
reads more than the label list has the answer. Only the label list leaves `_labels`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from mmjax.data.schema import SPLITS, Dialogue, Photo, Turn
from mmjax.errors import UserError
from tfds_builders.checks import (
    MAX_LABELS,
    MAX_TURNS,
    BadRecordError,
    Place,
    at_most,
    field,
    parse_json,
    read_bytes,
    typed,
)
from tfds_builders.local_folder import default_folder

ORIGINAL = "https://github.com/google-research/google-research/tree/master/multimodalchat/photochat"
ADDRESS = (
    "https://raw.githubusercontent.com/google-research/google-research/master/multimodalchat/"
    "photochat/"
)
_CHECKSUMS = Path(__file__).with_name("checksums.tsv")
_LABELS_FOLLOW = "Objects in the photo:"
_NAME_FOLLOWS = "The photo has your"


def published() -> dict[str, str]:
    """File name ("test/test_00.json") -> SHA-256 of each file of the release."""
    rows = [line.split("\t") for line in _CHECKSUMS.read_text().splitlines()]
    return {"/".join(row[0].split("/")[-2:]): row[2] for row in rows}


def local_folder(manual_dir: Any) -> epath.Path | None:
    """The folder that holds the release, or None when it must be downloaded.

    Looked at: `manual_dir`; else `$MMJAX_DATA_DIR/photochat`; else `shared/data/photochat` beside
    the repository. A folder that was named, or that holds a part of the files, must hold all.
    """
    places = [epath.Path(manual_dir)] if manual_dir else default_folders()
    names = list(published())
    for folder in places:
        try:
            missing = [name for name in names if not (folder / name).is_file()]
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({error.strerror}); check it.") from error
        if not missing:
            return folder
        if manual_dir or len(missing) < len(names):
            raise UserError(
                f"{folder / missing[0]} is not there ({len(names) - len(missing)} of the release's "
                f"{len(names)} files are); get the folder from {ORIGINAL} and name it with "
                "--config.data.manual_dir=DIR."
            )
    return None


def default_folders() -> list[epath.Path]:
    """Where the release is looked for when the user names no folder."""
    return [default_folder("photochat")]


def checksums(folder: epath.Path) -> dict[str, str]:
    """SHA-256 of each of the release's files as they are in this folder."""
    return {
        name: hashlib.sha256(read_bytes(folder / name, str(folder / name))).hexdigest()
        for name in published()
    }


def read(
    files: Mapping[str, tuple[Any, str]], split: str
) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The records of a split, in the order of the files.

    `files` maps the release's file names to (path, SHA-256): a file that changed since its
    digest was taken would give the prepared data a wrong name.
    """
    if split not in SPLITS:
        raise ValueError(split)
    seen: dict[int, str] = {}
    for name in sorted(name for name in files if name.startswith(f"{split}/")):
        path, digest = files[name]
        data = read_bytes(epath.Path(path), str(path))
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{path} changed while it was read; run the command again.")
        for number, record in enumerate(_records(data, name)):
            place = Place(f"{name}, record {number}")
            try:
                yield f"{name}:{number}", parse(record, split, place, seen)
            except BadRecordError as bad:
                yield f"{name}:{number}", bad


def parse(record: Any, split: str, place: Place, seen: dict[int, str]) -> Dialogue:
    """One record of the release; `seen` holds the ids that were used before.

    Raises `BadRecordError` where a field is missing, of another type, or beyond the size limits. A
    dialogue without a shared photo, without labels, or with empty messages is a valid one.
    """
    record = typed(record, dict, place)
    number = field(record, "dialogue_id", int, place)
    if number in seen:
        raise BadRecordError(
            f"{place / 'dialogue_id'}: {number} was used before, in {seen[number]}"
        )
    photo = Photo(
        id=field(record, "photo_id", str, place),
        labels=_labels(record, place),
        url=field(record, "photo_url", str, place),
    )
    inside = place / "dialogue"
    turns = []
    for k, turn in enumerate(at_most(field(record, "dialogue", list, place), MAX_TURNS, inside)):
        here = inside / k
        turn = typed(turn, dict, here)
        speaker = field(turn, "user_id", int, here)
        if speaker not in (0, 1):
            raise BadRecordError(f"{here / 'user_id'}: it should be 0 or 1 and is {speaker}")
        text = field(turn, "message", str, here)
        shared = field(turn, "share_photo", bool, here)
        turns.append(Turn(speaker, text, (photo,) if shared else ()))
    seen[number] = place.record
    return Dialogue(f"{split}/{number}", tuple(turns))


def _labels(record: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    description = field(record, "photo_description", str, place)
    _, found, listed = description.partition(_LABELS_FOLLOW)
    if not found:
        return ()
    if _LABELS_FOLLOW in listed or _NAME_FOLLOWS in listed:
        raise BadRecordError(
            f"{place / 'photo_description'}: a sentence follows the list of labels"
        )
    labels = [label.strip() for label in listed.split(", ")]
    labels = at_most([label for label in labels if label], MAX_LABELS, place / "photo_description")
    return tuple(labels)


def _records(data: bytes, name: str) -> list[Any]:
    try:
        records = parse_json(data, name)
    except BadRecordError as error:
        raise UserError(f"{error}; get the file again from {ADDRESS + name}.") from error
    if not isinstance(records, list):
        raise UserError(f"{name} is not a list of records; get it again from {ADDRESS + name}.")
    return records
