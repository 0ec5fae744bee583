"""Prepared data in an object store, through a copy on each host.

The files of prepared data (`array_record`) are written and read at random places, which needs a
real folder. So the process that prepares does it in a folder of its host and puts the result into
the store, a manifest last: only with it a dataset is there. Every host copies it once, whole or
not at all, and reads the copy. Indexes are made from the copy and stay beside it.

`$MMJAX_CACHE_DIR` (default `~/.cache/mmjax`) is where copies are; they can be deleted at any time
when no run reads them.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from etils import epath

from mmjax import storage
from mmjax.data.records import damaged

logger = logging.getLogger(__name__)

VARIABLE, _DEFAULT = "MMJAX_CACHE_DIR", "~/.cache/mmjax"
_MANIFEST = "manifest.json"


def local_dir(data_dir: epath.PathLike) -> epath.Path:
    """Where this host has what is in `data_dir`: a folder is its own place."""
    data_dir = os.fspath(data_dir)
    if not storage.is_remote(data_dir):
        return epath.Path(data_dir).expanduser()
    cache = epath.Path(os.environ.get(VARIABLE, _DEFAULT)).expanduser()
    return cache / data_dir.replace("://", "/").rstrip("/")


def remote_dir(folder: epath.PathLike, data_dir: epath.PathLike) -> epath.Path:
    """The place in an object store of a folder below `local_dir(data_dir)`."""
    return epath.Path(data_dir) / str(epath.Path(folder).relative_to(local_dir(data_dir)))


def is_there(remote: epath.Path) -> bool:
    """Whether the store has the dataset, whole."""
    return _manifest(remote) is not None


def fetch(remote: epath.Path, folder: epath.Path, unfinished: epath.Path) -> bool:
    """Copies a dataset from the store; False where there is none.

    Args:
      folder: absent; it is there, whole, afterwards.
      unfinished: what is used meanwhile, beside it.

    Raises:
      UserError: what is in the store is damaged.
    """
    manifest = _manifest(remote)
    if manifest is None:
        return False
    logger.info("copying %s to %s", remote, folder)
    unfinished.mkdir(parents=True, exist_ok=True)
    storage.copy_folder(remote, unfinished)
    (unfinished / _MANIFEST).unlink()
    found = storage.digests(unfinished)
    for name in sorted({*manifest, *found}):
        if manifest.get(name) != found.get(name):
            unfinished.rmtree()
            raise damaged(remote, f"{name} is missing or was changed since it was put there")
    unfinished.rename(folder)
    return True


def publish(folder: epath.Path, remote: epath.Path) -> None:
    """Puts a prepared dataset into the store.

    Raises:
      UserError: it cannot be written there.
    """
    logger.info("putting %s into %s", folder, remote)
    try:
        storage.copy_folder(folder, remote)
        storage.write_text(remote / _MANIFEST, json.dumps(storage.digests(folder)))
    except OSError as error:
        raise storage.failure(error)(
            f"--config.data.data_dir: {remote} cannot be written ({error.strerror or error}): "
            "check the bucket's name and this machine's rights."
        ) from error


def _manifest(remote: epath.Path) -> dict[str, Any] | None:
    try:
        with storage.as_os_errors():
            return json.loads((remote / _MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise storage.failure(error)(
            f"{remote / _MANIFEST} cannot be read ({error}): check the bucket's name and this "
            "machine's rights, or delete that folder to have it prepared again."
        ) from error
