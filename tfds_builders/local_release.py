"""Files of a release that lie on this machine: where they are looked for, and whether they are it.

Such a release is not downloaded: its licence wants a reader, or it has no address of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from mmjax.errors import UserError
from tfds_builders.base import digest_of
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.local_folder import default_folder
from tfds_builders.origin import Origin, Reader

Files = Mapping[str, tuple[epath.Path, str]]  # name -> path, SHA-256


@dataclass(frozen=True)
class LocalRelease:
    """Attributes:
    dataset: its name.
    folder: of the real data below `$MMJAX_DATA_DIR`.
    sha256: name -> SHA-256 of each file, as published.
    original: where the public finds it.
    """

    dataset: str
    folder: str
    sha256: Mapping[str, str]
    original: str

    def origin(self, manual_dir: Any, read: Reader, splits: tuple[str, ...]) -> Origin:
        """The files as an origin: "release", or "release-<digest>" where they hold something else.

        Raises UserError where a file is not there.
        """
        files = self.files(manual_dir)
        digest = digest_of({name: sha256 for name, (_, sha256) in files.items()})
        name = "release"
        if digest != digest_of(self.sha256):
            other = [n for n, (_, sha256) in files.items() if sha256 != self.sha256[n]]
            name = f"release-{digest[:12]}"
            logging.warning(
                "%s holds other content than the published release (%d of %d files differ, %s "
                "first): its data are called %s/%s.",
                *(files[other[0]][0].parent, len(other), len(files), other[0], self.dataset, name),
            )
        return Origin(name, digest, read, splits, lambda _: files)

    def files(self, manual_dir: Any) -> Files:
        """The release's files and their digests, in the folder that the user or a default names."""
        folder = epath.Path(manual_dir) if manual_dir else default_folder(self.folder)
        for name in self.sha256:
            if not (folder / name).is_file():
                raise UserError(
                    f"{self.dataset}: {folder / name} is not there; get the files "
                    f"({', '.join(self.sha256)}) from {self.original} and name their folder with "
                    "--config.data.manual_dir=DIR."
                )
        return {name: (folder / name, jsonl.digest(folder / name)) for name in self.sha256}


def published(module: str) -> dict[str, str]:
    """Name -> SHA-256, from the `files.tsv` (name, bytes, SHA-256) beside a builder."""
    lines = Path(module).with_name("files.tsv").read_text().splitlines()
    return {name: sha256 for name, _, sha256 in (line.split("\t") for line in lines)}
