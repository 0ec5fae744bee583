"""The builder of "photo_sessions": made-up sessions around photos that folders sort by kind.

The config's name holds a digest of the photos: their names, what they hold, and the words.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from mmjax.data.schema import Dialogue
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder, digest_of
from tfds_builders.checks import BadRecordError
from tfds_builders.file_digests import FileDigests, file_digests
from tfds_builders.local_folder import named_folder
from tfds_builders.origin import Origin, PhotoOrigin
from tfds_builders.photo_folder.files import PhotoFiles
from tfds_builders.photo_folder.splits import Fold, Shares, parse_config
from tfds_builders.photo_folder.tables import content
from tfds_builders.photo_sessions.sessions import FORMAT, sessions

_SHARES = Shares((70, 10, 20))
_MAX_KIND = 100  # characters


@dataclass(frozen=True)
class Sorted:
    """Photos in folders.

    Attributes:
      files: all of the folder.
      digests: of the photos.
      kinds: photo -> the name of its folder.
      bad: photo -> why it cannot be used.
    """

    files: PhotoFiles
    digests: FileDigests
    kinds: Mapping[str, str]
    bad: Mapping[str, BadRecordError]


class Builder(DialogueBuilder):
    """Photos in one folder per kind, anywhere below one folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    CONFIGS = ("fold-1-of-5", "split-70-10-20")  # examples: see `parse_config`
    PARTS = ("roles", "targets")

    @classmethod
    def has_config(cls, config: str) -> bool:
        return parse_config(config) is not None

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        found = _sorted(named_folder(manual_dir, "photo_sessions", "photos in one folder per kind"))
        splitting = parse_config(config) if config else _SHARES
        digest = digest_of({**_parts(found), "config": config, "format": str(FORMAT)})
        name = f"{config}-{digest[:16]}" if config else digest[:16]
        return Origin(
            name,
            digest,
            functools.partial(_read, splitting=splitting),
            splitting.splits,
            lambda _: found,
        )

    def photos(self) -> PhotoOrigin:
        found = _sorted(
            named_folder(self.manual_dir, "photo_sessions", "photos in one folder per kind")
        )
        expected = found.digests.of if found.digests.exact else {}

        def read(_: epath.Path) -> Iterator[tuple[str, bytes | BadRecordError]]:
            for name in found.kinds:
                yield name, content(found.files.path(name), expected.get(name))

        return PhotoOrigin("files", digest_of(_parts(found)), read)


def _read(
    found: Sorted, split: str, *, splitting: Shares | Fold
) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    if split == splitting.splits[0]:
        yield from found.bad.items()
    # Photos that hold the same, under whatever names, are in one split.
    chosen = splitting.of(sorted({found.digests.of[name] for name in found.kinds}))
    mine = {
        name: kind for name, kind in found.kinds.items() if chosen[found.digests.of[name]] == split
    }
    told = set()
    for made in sessions(split, mine):
        told.add(made.id.rpartition("#")[0])
        yield made.id, made
    if left := mine.keys() - told:
        logging.warning(
            "%d of %d photos of %r have no other to be compared with and are not told of (%r).",
            *(len(left), len(mine), split, min(left)),
        )


def _sorted(folder: Path) -> Sorted:
    """Raises UserError where fewer than two kinds are there."""
    files = PhotoFiles(folder)
    digests = file_digests({name: files.path(name) for name in files.digested})
    kinds, bad, called = {}, {}, {}
    for name, digest in digests.of.items():
        kind = " ".join(Path(name).parent.name.replace("_", " ").split())
        other = called.setdefault(digest, (kind, name))
        if not _is_text(name):
            bad[name] = BadRecordError(f"{name!a} is no text; give the file another name")
        elif not kind:
            bad[name] = BadRecordError(
                f"{files.path(name)} is in no folder that says what it shows; move it into one"
            )
        elif len(kind) > _MAX_KIND or not kind.isprintable():
            bad[name] = BadRecordError(
                f"{files.path(name)}: the name of its folder should be a word or a few"
            )
        elif other[0] != kind:
            bad[name] = BadRecordError(
                f"{files.path(name)} holds the same as {other[1]}, of another kind; remove one"
            )
        else:
            kinds[name] = kind
    if len(set(kinds.values())) < 2:
        raise UserError(
            f"{folder} has no two folders with photos (found: "
            f"{', '.join(sorted(set(kinds.values()))) or 'none'}); sort them by what they show, "
            "one folder per kind."
        )
    return Sorted(files, digests, kinds, bad)


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _parts(found: Sorted) -> dict[str, str]:
    # A name may hold bytes that are no text, or ends of lines.
    return {f"file {name!a}": digest for name, digest in found.digests.of.items()}
