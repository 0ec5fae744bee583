"""The builder of "dialogue_folder": own dialogues, prepared anew whenever a file changes.

The config's name is the digest of the files, so changed files are another dataset: a run that is
continued notices, and results of old and new files cannot be mixed up.
"""

from __future__ import annotations

from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from mmjax.data.schema import SPLITS
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder, Origin, digest_of
from tfds_builders.dialogue_folder import jsonl


class Builder(DialogueBuilder):
    """Dialogues from `train.jsonl`, `dev.jsonl`, `test.jsonl` in one folder; any of the three."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.1.0": "Photos have boxes."}

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        if not manual_dir:
            raise UserError(
                "dialogue_folder needs the folder with your train.jsonl, dev.jsonl and test.jsonl: "
                "name it with --config.data.manual_dir=DIR."
            )
        files = _files(epath.Path(manual_dir))
        digest = digest_of({split: digest for split, (_, digest) in files.items()})
        return Origin(digest[:16], digest, jsonl.read, tuple(files), lambda _: files)


def _files(folder: epath.Path) -> dict[str, tuple[epath.Path, str]]:
    try:
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder; name the one with your train.jsonl, dev.jsonl and "
                "test.jsonl with --config.data.manual_dir=DIR."
            )
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check it.") from error
    splits = [split for split in SPLITS if f"{split}.jsonl" in names]
    if not splits:
        there = ", ".join(names[:5]) or "nothing"
        raise UserError(
            f"{folder} holds none of train.jsonl, dev.jsonl and test.jsonl (it holds {there}); "
            "write one JSON dialogue per line into files of these names."
        )
    paths = {split: folder / f"{split}.jsonl" for split in splits}
    return {split: (path, jsonl.digest(path)) for split, path in paths.items()}
