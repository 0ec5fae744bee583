"""Folders with original files on this machine: the one that is named, or where they may lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from etils import epath

from mmjax.errors import UserError


def named_folder(manual_dir: Any, dataset: str, what: str) -> Path:
    """The folder that the user names. Raises UserError where none is named, or it is none here.

    Args:
      what: is in it, in words: "your photos".
    """
    if not manual_dir:
        raise UserError(
            f"{dataset} needs the folder with {what}: name it with --config.data.manual_dir=DIR."
        )
    if "://" in os.fspath(manual_dir):
        raise UserError(
            f"{manual_dir} is not on this machine; copy it, prepare it here with "
            "--config.data.data_dir=DIR, and use the prepared data elsewhere."
        )
    folder = Path(manual_dir)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; name the one with {what} with --config.data.manual_dir=DIR."
        )
    return folder


def default_folder(name: str) -> epath.Path:
    """Where a release is looked for when the user names no folder.

    That is `$MMJAX_DATA_DIR/<name>`, else `shared/data/<name>` beside the repository.
    """
    if "MMJAX_DATA_DIR" in os.environ:
        return epath.Path(os.environ["MMJAX_DATA_DIR"]) / name
    return epath.Path(Path(__file__).resolve().parents[2]) / "shared" / "data" / name
