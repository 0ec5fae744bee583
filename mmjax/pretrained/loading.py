"""From a pretrained folder to the parameters of one model, on any mesh.

A parameter is read when its turn comes, and of it only the slices that this process's devices
hold; so a model larger than the host's memory loads, and no file is read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import numpy as np

from mmjax.errors import UserError
from mmjax.models.transformer import VOCAB_MULTIPLE, TransformerConfig
from mmjax.pretrained.families import FAMILIES
from mmjax.pretrained.family import ONE, PARTS, Entry, Family
from mmjax.pretrained.folder import PretrainedFolder, Tensors

Config = TypeVar("Config")

SHOWN = 8  # names per line of a report; a folder with another head leaves over hundreds


@dataclass
class LoadReport:
    """What a load did: our parameters that were loaded or are still to be initialised (missing
    in the folder), and the folder's tensors that nothing asked for."""

    loaded: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = (
            ("loaded", self.loaded, False),
            ("initialised", self.initialised, True),
            ("left over", self.left_over, True),
        )
        return "\n".join(_row(title, names, show) for title, names, show in rows)


def transformer_config(folder: PretrainedFolder, kind: type[Config] = TransformerConfig) -> Config:
    """The model that the folder's config.json describes.

    Args:
        kind: class of the config that is wanted. A CLIP folder holds a text transformer, a vision
            transformer, and both together.

    Raises UserError for a `model_type` that is unknown or of another kind, or a key that is
    missing or does not fit.
    """
    family = find_family(folder, kind)
    return read_config(folder, lambda keys: family.config(keys | family.seen(folder.tensors)))


def read_config(folder: PretrainedFolder, describe: Callable[[dict[str, Any]], Config]) -> Config:
    """What `describe` makes of the folder's config.json, its complaints put into words."""
    file = folder.path / "config.json"
    try:
        return describe(folder.config)
    except KeyError as e:
        raise UserError(
            f"{file} has no key {e.args[0]!r}. Copy the config.json that belongs to the weights."
        ) from e
    except (TypeError, ValueError) as e:
        raise UserError(f"{file} describes no model: {e}. Correct it or copy it again.") from e


def load_transformer(
    folder: PretrainedFolder, target: Mapping[str, Any], kind: type = TransformerConfig
) -> tuple[dict[str, Any], LoadReport]:
    """The folder's weights as the parameters of one model.

    Args:
        folder: what `load_folder` gave.
        target: tree of jax.ShapeDtypeStruct, the model's subtree under "params"; where one
            has a sharding its array is made with it, each process reading its own slices only.
        kind: class of the model's config, as for `transformer_config`.

    Returns:
        The tree of jax.Arrays in the target's dtypes, None where the folder has no weights, and
        the report. Rows of the vocabulary beyond the folder's are zero.

    Raises UserError, naming the parameter, when a shape does not fit, when the folder has another
    number of layers, when a value is no finite number, and when it holds none of the parameters.
    """
    family = find_family(folder, kind)
    entries = family.entries(transformer_config(folder, kind))
    return load_entries(folder, entries, family.canonical, target)


def load_entries(
    folder: PretrainedFolder,
    table: Iterable[Entry],
    canonical: Callable[[str], str | None],
    target: Mapping[str, Any],
) -> tuple[dict[str, Any], LoadReport]:
    """The folder's weights as a tree like `target`; see `Family` for `table` and `canonical`."""
    tensors = folder.tensors
    names = {c: n for n in tensors.names() if (c := canonical(n)) is not None}
    entries = {entry.path: entry for entry in table}
    report = LoadReport()
    used: set[str] = set()

    def load(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array | None:
        key = "/".join(p.key for p in path)
        sources = _sources(folder, entries[key], names, leaf) if key in entries else []
        if not sources:
            report.initialised.append(key)
            return None
        used.update(sources)
        array = _read(tensors, entries[key], sources, leaf)
        report.loaded.append(key)
        return array

    params = jax.tree_util.tree_map_with_path(load, dict(target))
    report.left_over = sorted(set(names.values()) - used)
    if not report.loaded:
        raise UserError(
            f"{folder.path} holds none of the model's parameters; its tensors have names such as "
            f"{', '.join(tensors.names()[:3])}. Is the model_type in config.json right?"
        )
    return params, report


def find_family(folder: PretrainedFolder, kind: type[Config]) -> Family[Config]:
    model_type = folder.config.get("model_type")
    for family in FAMILIES.get(model_type, ()):
        if family.kind is kind:
            return family
    fitting = [name for name, all_of in FAMILIES.items() if any(f.kind is kind for f in all_of)]
    raise UserError(
        f"{folder.path / 'config.json'}: model_type is {model_type!r}; supported: "
        f"{', '.join(fitting)}."
    )


def _sources(
    folder: PretrainedFolder, entry: Entry, names: dict[str, str], leaf: jax.ShapeDtypeStruct
) -> list[str]:
    """The folder's tensors that make up the parameter (one per layer), their shapes checked."""
    n = leaf.shape[0] if entry.stacked else 1
    *wanted, after = entry.names(n + 1)
    found = [name for name in wanted if name in names]
    more = entry.stacked and not entry.numbered_on and after in names
    if found and (len(found) < n or more):
        count = f"more than {n}" if more else f"{len(found)} of {n}"
        raise UserError(
            f"{folder.path} has {count} layers of {entry.path} ({entry.name}). Build the model "
            "with the number of layers that the folder has, or name a complete folder."
        )
    sizes = dict(zip(entry.ours, leaf.shape[entry.stacked :], strict=True))
    sizes |= {ONE: 1, PARTS: entry.parts}
    expected = tuple(int(np.prod([sizes[a] for a in group])) for group in entry.theirs)
    for name in found:
        shape = folder.tensors.shape(names[name])
        if not _fits(entry, shape, expected):
            raise UserError(
                f"{folder.path}: {names[name]} has shape {shape}, but {entry.path} needs "
                f"{expected}. Build the model from this folder's config.json."
            )
    return [names[name] for name in found]


def _fits(entry: Entry, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if len(shape) != len(expected):
        return False
    return all(
        0 <= want - have < VOCAB_MULTIPLE if group == ["vocab"] else want == have
        for group, have, want in zip(entry.theirs, shape, expected, strict=True)
    )


def _read(
    tensors: Tensors, entry: Entry, sources: list[str], leaf: jax.ShapeDtypeStruct
) -> jax.Array:
    cache: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        # Devices that hold the same slice share one read.
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape, strict=True))
        if bounds not in cache:
            cache[bounds] = _read_part(tensors, entry, sources, leaf, bounds)
        return cache[bounds]

    if leaf.sharding is None:
        return jax.numpy.asarray(part((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)


def _read_part(
    tensors: Tensors,
    entry: Entry,
    sources: list[str],
    leaf: jax.ShapeDtypeStruct,
    bounds: tuple[tuple[int, int], ...],
) -> np.ndarray:
    """The part of the parameter within `bounds` (start and stop per axis)."""
    part = np.zeros([stop - start for start, stop in bounds], leaf.dtype)
    if not entry.stacked:
        _fill(part, tensors, entry, sources[0], leaf.shape, bounds)
        return part
    first, last = bounds[0]
    for i, name in enumerate(sources[first:last]):
        _fill(part[i], tensors, entry, name, leaf.shape[1:], bounds[1:])
    return part


def _fill(
    part: np.ndarray,
    tensors: Tensors,
    entry: Entry,
    name: str,
    shape: tuple[int, ...],
    bounds: tuple[tuple[int, int], ...],
) -> None:
    """Writes into `part` what the tensor holds of it."""
    size = dict(zip(entry.ours, shape, strict=True))
    bound = dict(zip(entry.ours, bounds, strict=True))
    bound |= {ONE: (0, 1), PARTS: (entry.part, entry.part + 1)}
    index, split, inner = [], [], []
    for group, length in zip(entry.theirs, tensors.shape(name), strict=True):
        # Of merged axes the first is cut as asked, so the rows read are contiguous; the others
        # are read whole and cut afterwards.
        block = int(np.prod([size[axis] for axis in group[1:]]))
        start, stop = bound[group[0]]
        start, stop = start * block, min(stop * block, length)
        if start >= stop:
            return  # a device may hold nothing but padding of the vocabulary
        index.append(slice(start, stop))
        split += [(stop - start) // block, *(size[axis] for axis in group[1:])]
        inner += [slice(None), *(slice(*bound[axis]) for axis in group[1:])]
    axes = [axis for group in entry.theirs for axis in group]
    data = tensors.read(name, tuple(index))
    if not np.isfinite(data).all():
        raise UserError(
            f"{tensors.folder}: {name} holds values that are no numbers (NaN or infinite): the "
            "folder was written by a training that went wrong. Name another one."
        )
    data = data.reshape(split)[tuple(inner)]
    data = data.squeeze(tuple(i for i, axis in enumerate(axes) if axis not in entry.ours))
    axes = [axis for axis in axes if axis in entry.ours]
    data = data.transpose([axes.index(axis) for axis in entry.ours])
    part[tuple(slice(0, n) for n in data.shape)] = data


def _row(title: str, names: list[str], show: bool) -> str:
    listed = ", ".join(names[:SHOWN]) if show else ""
    more = f", and {len(names) - SHOWN} more" if show and len(names) > SHOWN else ""
    return f"{title:<12} {len(names):>4}  {listed}{more}".rstrip()
