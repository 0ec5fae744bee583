"""Reads the folder's tables: dialogues of a split, and the photos that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from absl import logging
from etils import epath

from mmjax.data.images import MAX_BYTES
from mmjax.data.schema import Dialogue
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError, Place, parse_json
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.file_digests import FileDigests
from tfds_builders.photo_folder.files import PhotoFiles
from tfds_builders.photo_folder.record import Known, parse
from tfds_builders.photo_folder.splits import Fold, Shares, Units

Tables = Mapping[str, tuple[epath.Path, str]]  # split, or "" for all -> path, SHA-256


@dataclass
class Content:
    """What the splits are read from.

    Attributes:
      tables: split -> path and digest; where the lines of one table are dealt out, each split has
        the same.
      known: grows while the splits are read.
      split_of: line -> split, where they are dealt out.
      bad: line -> why it cannot be used, where they are dealt out.
    """

    tables: Tables
    known: Known
    split_of: Mapping[int, str] | None = None
    bad: Mapping[int, BadRecordError] | None = None


def given_splits(tables: Tables, files: PhotoFiles) -> Content:
    """The splits are the user's."""
    return Content(tables, Known(files))


def dealt_out(tables: Tables, files: PhotoFiles, splitting: Shares | Fold) -> Content:
    """The lines of the one table are split by photo; this reads all of them."""
    ((path, digest),) = tables.values()
    known, units = Known(files), Units()
    unit_of: dict[int, str] = {}
    bad: dict[int, BadRecordError] = {}
    for number, place, line in jsonl.lines(path, digest):
        try:
            dialogues = parse(parse_json(line, place.record), number, place, str(path), known)
        except BadRecordError as error:
            bad[number] = error
            continue
        # A dialogue without a photo is a unit of its own; no path begins with a slash.
        ids = list(dict.fromkeys(_photo_ids(dialogues))) or [f"/{dialogues[0].id}"]
        units.join(ids)
        unit_of[number] = ids[0]
    if not unit_of:
        reason = next(iter(bad.values()), "it is empty")
        raise UserError(f"{path} has no line that can be used ({reason}); correct it.")
    split_of_unit = splitting.of(units.all())
    split_of = {number: split_of_unit[units.of(name)] for number, name in unit_of.items()}
    split_of |= dict.fromkeys(bad, splitting.splits[0])
    tables = dict.fromkeys(splitting.splits, (path, digest))
    return Content(tables, Known(files), split_of, bad)


def read(content: Content, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The dialogues of a split, each with a key of its own."""
    path, digest = content.tables[split]
    before = set(content.known.file_of)
    shared: dict[str, Place] = {}
    for number, place, line in jsonl.lines(path, digest):
        if content.split_of is not None and content.split_of[number] != split:
            continue
        try:
            if content.bad and number in content.bad:
                raise content.bad[number]
            dialogues = parse(
                parse_json(line, place.record), number, place, str(path), content.known
            )
        except BadRecordError as error:
            yield str(number), error
            continue
        for name in _photo_ids(dialogues):
            if name in before:
                shared.setdefault(name, place)
        for k, dialogue in enumerate(dialogues):
            yield f"{number}#{k}", dialogue
    if shared:
        name, place = next(iter(shared.items()))
        logging.warning(
            "%s photos of %r are in another split too (%r in %s, first): models may have seen them "
            "before they are judged on them.",
            *(f"{len(shared):,}", split, name, place),
        )


def read_photos(
    tables: Tables, files: PhotoFiles, digests: FileDigests
) -> Iterator[tuple[str, bytes | BadRecordError]]:
    """Each photo that a usable line names, once: (id, encoded bytes).

    Args:
      digests: of the files; where they are exact, a file must still be what it was.
    """
    known, done = Known(files), set()
    expected = digests.of if digests.exact else {}
    for path, digest in dict.fromkeys(tables.values()):
        for number, place, line in jsonl.lines(path, digest):
            try:
                dialogues = parse(parse_json(line, place.record), number, place, str(path), known)
            except BadRecordError:
                continue  # the dialogues' reader counts it
            for name in _photo_ids(dialogues):
                if name in known.file_of and name not in done:
                    done.add(name)
                    file = known.file_of[name]
                    yield name, content(files.path(file), expected.get(file))


def _photo_ids(dialogues: list[Dialogue]) -> Iterator[str]:
    return (photo.id for d in dialogues for turn in d.turns for photo in turn.photos)


def content(path: Path, digest: str | None) -> bytes | BadRecordError:
    """A file's bytes, or why they cannot be used. `digest`: their SHA-256, where it is known.

    Raises UserError where they are no longer those of the digest.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return BadRecordError(f"{path} cannot be read ({error.strerror})")
    if len(data) > MAX_BYTES:
        return BadRecordError(f"{path} has more than {MAX_BYTES:,} bytes")
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path} changed while it was read; run the command again.")
    return data
