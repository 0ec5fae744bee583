"""Arrays kept beside prepared data: whole or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping

import numpy as np
from etils import epath

from mmjax import storage
from mmjax.errors import UserError


def read_arrays(path: epath.Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file that `write_arrays` finished; None for any other, or without one."""
    try:
        data, digest = path.read_bytes(), path.with_suffix(".sha256").read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest().encode() != digest:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a `.npz` file and its digest.

    Raises:
      UserError: there is no room or no right to write.
    """
    data = io.BytesIO()
    np.savez(data, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The digest is written last: a file without a matching one is made anew.
        storage.write_bytes(path, data.getvalue())
        digest = hashlib.sha256(data.getvalue()).hexdigest()
        storage.write_text(path.with_suffix(".sha256"), digest)
    except OSError as error:
        raise UserError(
            f"cannot write the index {path} ({error.strerror or error}): free space there or set "
            "config.data.data_dir to a writable folder."
        ) from error
