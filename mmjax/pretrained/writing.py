"""From the parameters of a model to the tensors of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mmjax.errors import UserError
from mmjax.pretrained.family import Entry


def to_tensors(table: Iterable[Entry], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tree's arrays under the names and in the shapes that the table gives them in a folder.

    Rows that only pad a vocabulary are kept. Raises KeyError for an array that the table does not
    know.
    """
    entries = {entry.path: entry for entry in table}
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        entry = entries[jax.tree_util.keystr(path, simple=True, separator="/")]
        array = np.asarray(leaf)
        layers = array if entry.stacked else array[None]
        for name, layer in zip(entry.names(len(layers)), layers, strict=True):
            tensors[name] = _turned(entry, layer)
    return tensors


def write_folder(folder: Path, config: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Writes config.json and model.safetensors.

    Raises UserError when they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(dict(config), indent=1) + "\n")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise UserError(
            f"the weights cannot be written to {folder} ({e}): name another folder, or free space."
        ) from e


def _turned(entry: Entry, array: np.ndarray) -> np.ndarray:
    """From the order of our axes to the folder's, with the axes merged that it merges."""
    size = dict(zip(entry.ours, array.shape, strict=True))
    order = [entry.ours.index(axis) for group in entry.theirs for axis in group]
    shape = [int(np.prod([size[axis] for axis in group])) for group in entry.theirs]
    return np.ascontiguousarray(array.transpose(order).reshape(shape))
