"""The builder of "photochat/release" (the real data) and "photochat/demo" (a generated set).

"release" means the published files, byte for byte, so that results carry the right name: files of
the same layout with any other content are prepared as "release-<digest>", and a warning says so.
"""

from __future__ import annotations

import errno
import functools
import urllib.request
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from mmjax.data.records import Records
from mmjax.data.schema import SPLITS
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder, digest_of
from tfds_builders.origin import Origin, PhotoOrigin
from tfds_builders.photochat import demo_dialogues, demo_photos, open_images, release

# What went wrong is not the network: `mmjax.data.sources` has the right words for these.
OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Builder(DialogueBuilder):
    """PhotoChat (Zang et al., ACL 2021): photo-sharing dialogues with object labels, no pixels."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.1.0": "Dialogues, labels, boxes; photos apart."}
    CONFIGS = ("release", "demo")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name="release", description="The published dialogues."),
        tfds.core.BuilderConfig(name="demo", description="Generated scenes and dialogues."),
    ]

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        if config == "demo":
            return Origin("demo", demo_dialogues.DIGEST, demo_dialogues.read, SPLITS)
        folder = release.local_folder(manual_dir)
        published = digest_of(release.published())
        if folder is None:
            return Origin("release", published, release.read, SPLITS, _download)
        found = release.checksums(folder)
        files = {name: (folder / name, found[name]) for name in found}
        name, digest = "release", digest_of(found)
        if digest != published:
            other = [file for file in found if found[file] != release.published()[file]]
            name = f"release-{digest[:12]}"
            logging.warning(
                "%s holds other content than the published release (%d of %d files differ, %s "
                "first): its data are called photochat/%s.",
                *(folder, len(other), len(found), other[0], name),
            )
        return Origin(name, digest, release.read, SPLITS, functools.partial(_given, files))

    def photos(self) -> PhotoOrigin:
        if self.asked == "demo":
            return PhotoOrigin("demo", demo_photos.PHOTOS_DIGEST, demo_photos.read_photos)
        wanted = set()
        for split in self.info.splits:
            records = Records(self.data_path, split)
            for number in range(len(records)):
                wanted.update(name.decode() for name in records[number]["photos"]["id"])
        return open_images.photo_origin(sorted(wanted), self.manual_dir)


def _given(files: Any, download_manager: Any) -> Any:
    return files


def _download(download_manager: Any) -> Any:
    names = release.published()
    looked_at = " and ".join(str(folder) for folder in release.default_folders())
    try:
        _reach(release.ADDRESS + next(iter(names)))
        paths = download_manager.download({name: release.ADDRESS + name for name in names})
    except NonMatchingChecksumError as error:
        raise UserError(
            f"What {release.ADDRESS} gave is not the published PhotoChat ({_first_line(error)}); "
            f"get it from {release.ORIGINAL} and name the folder with "
            "--config.data.manual_dir=DIR."
        ) from error
    except (OSError, tfds.download.DownloadError) as error:  # requests' errors are OSErrors
        if getattr(error, "errno", None) in OWN_DISK:
            raise
        raise UserError(
            f"PhotoChat is not in {looked_at} and could not be downloaded from {release.ADDRESS} "
            f"({_first_line(error)}): get the folder from {release.ORIGINAL} and name it with "
            "--config.data.manual_dir=DIR."
        ) from error
    return {name: (paths[name], names[name]) for name in names}


def _reach(address: str) -> None:
    # TFDS' downloads have no time-out: without this a network that swallows packets looks like
    # a program that hangs.
    urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=20).close()


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "reason", None) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
