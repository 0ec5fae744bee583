"""The builder of "photo_folder": own photos with captions, labels, boxes or dialogues.

The config's name holds a digest of the tables and of the names of the files: captions do not change
when a photo is edited. The photos, which are prepared apart, are named by their content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from mmjax.data.schema import SPLITS
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder, digest_of
from tfds_builders.checks import BadRecordError
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.file_digests import file_digests
from tfds_builders.local_folder import named_folder
from tfds_builders.origin import Origin, PhotoOrigin
from tfds_builders.photo_folder import tables
from tfds_builders.photo_folder.files import TABLE, PhotoFiles
from tfds_builders.photo_folder.splits import parse_config

_HOW = (
    "write one photo or dialogue per line into train.jsonl, dev.jsonl and test.jsonl, or all into "
    "one .jsonl file, which is split by photo"
)


class Builder(DialogueBuilder):
    """Photos anywhere below one folder, and one table or one per split beside them."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    CONFIGS = ("fold-1-of-5", "split-80-10-10")  # examples: see `parse_config`

    @classmethod
    def has_config(cls, config: str) -> bool:
        return parse_config(config) is not None

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        folder = named_folder(manual_dir, "photo_folder", "your photos")
        found, files = _tables(folder), PhotoFiles(folder)
        parts = {f"table {split}": digest for split, (_, digest) in found.items()}
        parts |= {"config": config, "names": files.names_digest()}
        digest = digest_of(parts)
        name = f"{config}-{digest[:16]}" if config else digest[:16]
        if "" not in found:
            if config:
                raise UserError(
                    f"{folder} has its own splits ({', '.join(found)}), so that photo_folder/"
                    f"{config} has nothing to split; leave {config} out, or put all lines into one "
                    ".jsonl file of another name."
                )
            return Origin(
                *(name, digest, tables.read, tuple(found)),
                lambda _: tables.given_splits(found, files),
            )
        splitting = parse_config(config)
        return Origin(
            *(name, digest, tables.read, splitting.splits),
            lambda _: tables.dealt_out(found, files, splitting),
        )

    def photos(self) -> PhotoOrigin:
        return photo_origin(self.manual_dir)


def photo_origin(manual_dir: Any) -> PhotoOrigin:
    """The photos that the tables name, whatever the splits."""
    folder = named_folder(manual_dir, "photo_folder", "your photos")
    found, files = _tables(folder), PhotoFiles(folder)
    digests = file_digests({name: files.path(name) for name in files.digested})
    parts = {f"table {split}": digest for split, (_, digest) in found.items()}
    # A name may hold bytes that are no text, or ends of lines.
    parts |= {f"file {name!a}": digest for name, digest in digests.of.items()}

    def read(_: epath.Path) -> Iterator[tuple[str, bytes | BadRecordError]]:
        return tables.read_photos(found, files, digests)

    return PhotoOrigin("files", digest_of(parts), read)


def _tables(folder: Path) -> dict[str, tuple[epath.Path, str]]:
    """Split, or "" for all -> the table and its digest."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check it.") from error
    found = [name for name in names if name.endswith(TABLE) and not name.startswith(".")]
    given = [f"{split}{TABLE}" for split in SPLITS if f"{split}{TABLE}" in found]
    others = [name for name in found if name not in given]
    if not found:
        there = ", ".join(names[:5]) or "nothing"
        raise UserError(f"{folder} holds no .jsonl file (it holds {there}); {_HOW}.")
    if len(others) > (0 if given else 1):
        raise UserError(f"{folder} holds {' and '.join(found[:4])}; {_HOW}.")
    paths = {name.removesuffix(TABLE) if given else "": epath.Path(folder / name) for name in found}
    return {
        split: (paths[split], jsonl.digest(paths[split]))
        for split in ("", *SPLITS)
        if split in paths
    }
