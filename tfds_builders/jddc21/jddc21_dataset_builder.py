"""The builder of "jddc21": multimodal customer service with products and annotations.

The config's name is a digest of the tables, as that of a user's own folder: nobody publishes what
the files should be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from mmjax.data.annotations import PARTS
from mmjax.data.schema import SPLITS, Dialogue
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder, digest_of
from tfds_builders.checks import BadRecordError, Place, parse_json
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.file_digests import file_digests
from tfds_builders.jddc21 import archive, session
from tfds_builders.jddc21.tables import Tables, read_tables
from tfds_builders.origin import Origin, PhotoOrigin
from tfds_builders.photo_folder.files import PhotoFiles
from tfds_builders.photo_folder.tables import content

ANNOTATED = "annotated"


class Builder(DialogueBuilder):
    """All sessions in their own splits, or ("annotated") those that were annotated, in theirs."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.2.0": "Annotated train has no session of the files of dev or test.",
        "1.1.0": "Train has no session that is annotated for dev or test.",
        "1.0.0": "First version.",
    }
    CONFIGS = (ANNOTATED,)
    PARTS = tuple(part for part in PARTS if part != "references")

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        folder = archive.folder_of(manual_dir)
        files = archive.files_of(folder)
        splits = tuple(split for split in SPLITS if archive.SESSIONS[split] in files)
        if not splits:
            raise UserError(
                f"{folder} has no sessions ({', '.join(archive.SESSIONS.values())}): "
                f"python -m tfds_builders.jddc21.check {folder} says what else is missing."
            )
        if config == ANNOTATED:
            if archive.ANNOTATED not in files:
                raise UserError(
                    f"{folder / archive.ANNOTATED} is not there, so that nobody knows which "
                    "sessions are annotated; get it, or leave /annotated out."
                )
            splits = SPLITS
        digest = digest_of({name: sha256 for name, (_, sha256) in files.items()})
        name = f"{config}-{digest[:16]}" if config else digest[:16]

        def read(tables: Tables, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
            if config == ANNOTATED:
                return annotated(files, tables, split)
            return in_split(files, tables, split)

        return Origin(name, digest, read, splits, lambda _: read_tables(files))

    def photos(self) -> PhotoOrigin:
        return photo_origin(archive.folder_of(self.manual_dir))


def in_split(
    files: archive.Files, tables: Tables, split: str
) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """A split's sessions. One that stands in an earlier split too is bad, and what dev and test of
    the annotated ones judge by is not in train."""
    seen: dict[str, str] = {}
    for earlier in itertools.takewhile(lambda name: name != split, SPLITS):
        if archive.SESSIONS[earlier] in files:
            for _ in sessions(files, tables, earlier, seen):
                pass
    for key, found in sessions(files, tables, split, seen):
        bad = isinstance(found, BadRecordError)
        if bad or split != "train" or tables.splits.get(found.id, "train") == "train":
            yield key, found


def sessions(
    files: archive.Files, tables: Tables, split: str, seen: dict[str, str]
) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The sessions of one of the archive's splits; `seen` holds ids that were used before."""
    for number, place, line in jsonl.lines(*files[archive.SESSIONS[split]]):
        try:
            yield str(number), session.parse(parse_json(line, place.record), place, tables, seen)
        except BadRecordError as bad:
            yield str(number), bad


def annotated(
    files: archive.Files, tables: Tables, split: str
) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The annotated sessions of a split, wherever they stand; broken ones count in train.

    What dev and test of all sessions judge by is not in train: a network may learn from both.
    """
    seen: dict[str, str] = {}
    for theirs in SPLITS:
        if archive.SESSIONS[theirs] in files:
            for key, found in sessions(files, tables, theirs, seen):
                bad = isinstance(found, BadRecordError)
                at = "train" if bad else tables.splits.get(found.id)
                if at == split and (bad or split != "train" or theirs == "train"):
                    yield f"{theirs}:{key}", found


def photo_origin(folder: Path) -> PhotoOrigin:
    """The images that any session shows. One that is not there counts as one that is broken."""
    tables, found = archive.files_of(folder), PhotoFiles(folder)
    inside = f"{archive.IMAGES}/"
    names = [name for name in found.digested if name.startswith(inside)]
    digests = file_digests({name: found.path(name) for name in names})
    expected = digests.of if digests.exact else {}
    parts = {f"table {name}": sha256 for name, (_, sha256) in tables.items()}
    parts |= {f"file {name!a}": digest for name, digest in digests.of.items()}

    def read(_: epath.Path) -> Iterator[tuple[str, bytes | BadRecordError]]:
        for name, place in shown(tables).items():
            try:
                file = found.find(inside + name, place)
            except BadRecordError as bad:
                yield name, bad
            else:
                yield name, content(found.path(file), expected.get(file))

    return PhotoOrigin("files", digest_of(parts), read)


def shown(files: archive.Files) -> Mapping[str, Place]:
    """Name of each image that a session shows -> where it is shown first."""
    names: dict[str, Place] = {}
    for split in SPLITS:
        if archive.SESSIONS[split] in files:
            for _, place, line in jsonl.lines(*files[archive.SESSIONS[split]]):
                try:
                    found = session.parse(parse_json(line, place.record), place, Tables(), {})
                except BadRecordError:
                    continue  # the sessions' reader counts it
                for turn in found.turns:
                    for photo in turn.photos:
                        names.setdefault(photo.id, place)
    return names
