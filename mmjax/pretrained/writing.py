"""From the parameters of a model to the tensors of a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mmjax.errors import UserError
from mmjax.models.stack import StackConfig
from mmjax.pretrained.families import FAMILIES
from mmjax.pretrained.family import ONE, PARTS, Entry, Family


def export_transformer(
    config: Any, params: Mapping[str, Any], folder: str | Path, model_type: str
) -> None:
    """Writes a folder that `transformers` reads.

    Args:
        config: of the model.
        params: the model's subtree under "params", whole arrays.
        model_type: what the model is called there ("bert", "t5").

    Raises UserError when that format has no word for a part of the model, or when the folder cannot
    be written.
    """
    described, tensors = transformer_content(config, params, model_type)
    write_folder(Path(folder), described, tensors)


def transformer_content(
    config: Any, params: Mapping[str, Any], model_type: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What config.json says of the model, and its tensors.

    Args:
        config, params: as of `export_transformer`.
        model_type: what the model is called there; None: the first name that it can have.

    Raises UserError as `export_transformer`.
    """
    names = (model_type,) if model_type else FAMILIES
    families = (family for name in names for family in FAMILIES.get(name, ()))
    fitting = (f for f in families if f.kind is type(config) and _describes(f, config))
    family = next(fitting, None)
    if family is None:
        has, named = ("has", repr(model_type)) if model_type else ("have", "families")
        raise UserError(
            f"the model has parts that Hugging Face's {named} {has} no word for: it cannot be "
            "exported as one. Name its own model_type, or train it from that family's preset."
        )
    tensors = to_tensors(family.entries(config), params, getattr(config, "vocab_size", None))
    return family.describe(config), tensors


def _describes(family: Family, config: Any) -> bool:
    """Whether who reads the family's description of the model builds the same one."""
    try:
        return family.config(family.describe(config)) == _architecture(config)
    except (AttributeError, LookupError, ValueError, UserError):  # a part that it lacks
        return False


def _architecture(config: Any) -> Any:
    """The config as it is before a run chooses how it is computed."""
    if isinstance(config, StackConfig):
        return dataclasses.replace(config, dtype="float32", unroll=1, remat="none", kernel="auto")
    inner = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    inner = {k: _architecture(v) for k, v in inner.items() if isinstance(v, StackConfig)}
    return dataclasses.replace(config, **inner)


def to_tensors(
    table: Iterable[Entry], tree: Mapping[str, Any], vocab_size: int | None = None
) -> dict[str, np.ndarray]:
    """The tree's arrays under the names and in the shapes that the table gives them in a folder.

    Rows of the vocabulary from `vocab_size` on are left out; None: all are kept. Raises KeyError
    for an array that the table does not know.
    """
    entries = {entry.path: entry for entry in table}
    found: dict[str, list[tuple[Entry, np.ndarray]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        entry = entries[jax.tree_util.keystr(path, simple=True, separator="/")]
        array = np.asarray(leaf)
        layers = array if entry.stacked else array[None]
        for name, layer in zip(entry.names(len(layers)), layers, strict=True):
            found.setdefault(name, []).append((entry, _turned(entry, layer, vocab_size)))
    return {name: _joined(pieces) for name, pieces in found.items()}


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


def _joined(pieces: list[tuple[Entry, np.ndarray]]) -> np.ndarray:
    """One tensor of the parameters that it lays one after another."""
    if len(pieces) == 1:
        return pieces[0][1]
    pieces = sorted(pieces, key=lambda piece: piece[0].part)
    axis = next(i for i, group in enumerate(pieces[0][0].theirs) if PARTS in group)
    return np.concatenate([array for _, array in pieces], axis)


def _turned(entry: Entry, array: np.ndarray, vocab_size: int | None) -> np.ndarray:
    """From the order of our axes to the folder's, with the axes merged that it merges."""
    if vocab_size is not None and "vocab" in entry.ours:
        array = array.take(range(vocab_size), entry.ours.index("vocab"))
    size = dict(zip(entry.ours, array.shape, strict=True)) | {ONE: 1, PARTS: 1}
    axes = [axis for group in entry.theirs for axis in group if axis in entry.ours]
    shape = [int(np.prod([size[axis] for axis in group])) for group in entry.theirs]
    order = [entry.ours.index(axis) for axis in axes]
    # In this order: ascontiguousarray makes a vector of a scalar.
    return np.ascontiguousarray(array.transpose(order)).reshape(shape)
