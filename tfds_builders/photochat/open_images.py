"""The photos of PhotoChat, from Open Images' public bucket or a folder that the user has.

A `photo_id` is "<split of Open Images>/<16 hexadecimal digits>"; the bucket that the CVDF keeps
holds each photo as "<photo_id>.jpg". The release's own `photo_url` points to Flickr, where many of
the photos are gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from absl import logging
from etils import epath

from mmjax.data.images import check_image
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.fetching import FetchReport, fetch_files, files_below
from tfds_builders.file_digests import file_digests
from tfds_builders.origin import PhotoOrigin
from tfds_builders.photochat import release

ADDRESS = "https://open-images-dataset.s3.amazonaws.com/"
VARIABLE = "MMJAX_OPEN_IMAGES_ADDRESS"
# Nothing else becomes a path or an address.
_ID = re.compile(r"(train|validation|test)/[0-9a-f]{16}", re.ASCII)
_SUFFIX = ".jpg"


def photo_origin(photo_ids: Iterable[str], manual_dir: Any = None, **how: Any) -> PhotoOrigin:
    """PhotoChat's photos: those in the user's `photos` folder, all others from the bucket.

    Args:
      photo_ids: of the release's records; an id may come more than once.
      manual_dir: the folder that may hold `photos/<split>/<hex>.jpg`; None: where the release
        itself is looked for.
      how: see `tfds_builders.fetching.fetch_files`.
    """
    ids = sorted(set(photo_ids))
    asked = set(ids)
    local = {name: path for name, path in _local(manual_dir).items() if name in asked}
    digest = _digest(ids, local)
    wanted = [name for name in ids if name not in local and _ID.fullmatch(name)]

    def read(folder: epath.Path) -> Iterator[tuple[str, bytes | BadRecordError]]:
        if local:
            logging.info("%s of %s photos are local files.", f"{len(local):,}", f"{len(ids):,}")
        failed = ()
        if wanted:
            failed = fetch_photos(wanted, folder, **how).failed
        # First: without consent the preparation ends here, not after gigabytes.
        for name, reason in failed:
            yield (
                name,
                BadRecordError(
                    f"photo {name} could not be fetched ({reason}), one of {len(failed)}; the same "
                    "command asks for these alone"
                ),
            )
        for name in ids:
            if not _ID.fullmatch(name):
                yield name, BadRecordError(_no_id(name))
                continue
            path = local.get(name, Path(folder) / (name + _SUFFIX))
            try:
                yield name, path.read_bytes()
            except FileNotFoundError:
                continue  # missing at the server, or failed
            except OSError as error:
                yield name, BadRecordError(f"{path} cannot be read ({error.strerror})")

    return PhotoOrigin("release", digest, read)


def fetch_photos(
    photo_ids: Iterable[str],
    folder: Any,
    *,
    address: str | None = None,
    **how: Any,
) -> FetchReport:
    """Fetches photos to `<folder>/<split>/<hex>.jpg`; those that are there are not asked for.

    Args:
      photo_ids: "train/0123456789abcdef".
      address: of the bucket or a mirror, the part before the photo's id; None:
        `$MMJAX_OPEN_IMAGES_ADDRESS`, else `ADDRESS`.
      how: see `tfds_builders.fetching.fetch_files`.

    Raises:
      UserError: the server cannot be reached; the folder cannot be written; an id is none.
    """
    ids = list(dict.fromkeys(photo_ids))
    for name in ids:
        if not _ID.fullmatch(name):
            raise UserError(f"{_no_id(name)}; correct photo_id in the release's files.")
    if "://" in os.fspath(folder):
        raise UserError(
            f"Photos are downloaded to a folder on this machine, which {folder} is not; prepare "
            "them with a local --config.data.data_dir=DIR."
        )
    base = address or os.environ.get(VARIABLE) or ADDRESS
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise UserError(
            f"{base!r} is no address of photos; {VARIABLE} should begin with https:// and end "
            "before train/, validation/ and test/."
        )
    return fetch_files(
        {name + _SUFFIX: f"{base.rstrip('/')}/{name}{_SUFFIX}" for name in ids},
        folder,
        check=check_image,
        remedy=(
            f"check the network, set {VARIABLE} to a mirror, or put the photos you have into "
            "photos/<split>/<id>.jpg of the folder that --config.data.manual_dir=DIR names."
        ),
        **how,
    )


def _digest(ids: list[str], local: dict[str, Path]) -> str:
    """Of the ids that are asked for, and of the content of the user's own files."""
    found = file_digests(local).of
    return hashlib.sha256(
        json.dumps([(name, found.get(name)) for name in ids]).encode()
    ).hexdigest()


def _no_id(name: str) -> str:
    return (
        f"{name!r} is no id of a photo in Open Images (train/, validation/ or test/ and 16 "
        "hexadecimal digits)"
    )


def _local(manual_dir: Any) -> dict[str, Path]:
    """Photo id -> the user's file."""
    places = [epath.Path(manual_dir)] if manual_dir else release.default_folders()
    for place in places:
        folder = os.fspath(place / "photos")
        if "://" not in folder and Path(folder).is_dir():
            found = {
                os.path.relpath(entry.path, folder): Path(entry.path)
                for entry in files_below(Path(folder))
            }
            return {
                name.removesuffix(_SUFFIX): path
                for name, path in found.items()
                if name.endswith(_SUFFIX)
            }
    return {}
