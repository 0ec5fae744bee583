"""What a finished run is to others: weights, fitted preprocessing, config, where it came from.

    artifact/weights.safetensors   every array by its path, on any number of devices
    artifact/preprocessing/        the tokenizer
    artifact/artifact.json         config, SHA-256 of each file, parents; written last

The folder stands alone: copied elsewhere, it is what evaluation, prediction and later runs need.
`run://DIR` names the artifact of the working directory DIR.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from safetensors import safe_open
from safetensors.numpy import save

from mmjax import storage
from mmjax.errors import UserError
from mmjax.parallel import distributed

FORMAT_VERSION = 1
_WEIGHTS, _ABOUT = "weights.safetensors", "artifact.json"


def write_artifact(
    folder: epath.PathLike,
    variables: Any,
    *,
    config: Mapping[str, Any],
    preprocessing: epath.PathLike,
    parents: list[Mapping[str, Any]],
    chosen: Mapping[str, float] | None = None,
) -> None:
    """Writes the artifact of a run; every process calls it, one writes.

    Args:
      variables: tree of arrays that the model is evaluated with.
      preprocessing: folder with what was fitted on the training data.
      parents: what the run was started from, see `parent`.
      chosen: what its evaluator chose on dev (a threshold), by name.

    Raises:
      UserError: the folder cannot be written.
    """
    arrays = {}
    for name, x in _named(variables).items():
        array = distributed.to_host(x)  # whole, on every process
        if distributed.is_main():  # which writes them as one file; the others hold one at a time
            arrays[name] = array
    if not distributed.is_main():
        return
    folder = epath.Path(folder)
    with storage.told(
        f"the artifact {folder} cannot be written",
        "free space, and the same command writes it again",
    ):
        if folder.exists():
            folder.rmtree()
        (folder / "preprocessing").mkdir(parents=True)
        storage.write_bytes(folder / _WEIGHTS, save(arrays))
        storage.copy_folder(preprocessing, folder / "preprocessing")
        about = {
            "format_version": FORMAT_VERSION,
            "config": dict(config),
            "files": _digests(folder),
            "parents": [dict(parent) for parent in parents],
            "chosen": dict(chosen or {}),
        }
        storage.write_text(folder / _ABOUT, json.dumps(about, indent=1))


def read_artifact(place: epath.PathLike, target: Any) -> Any:
    """The variables of an artifact, placed as `target` asks.

    Args:
      place: folder of the artifact, or "run://DIR".
      target: tree of ShapeDtypeStruct with shardings; each process reads only its parts.

    Raises:
      UserError: no artifact, a changed file, or one of another model (the difference is named).
    """
    folder = artifact_folder(place)
    check_artifact(folder)
    wanted = _named(target)
    with _opened(folder) as weights:
        names = set(weights.keys())
        for name in sorted(names ^ set(wanted)):
            where = "only in the artifact" if name in names else "not in the artifact"
            raise UserError(f"{folder} is of another model: {name} is {where}.")

        def place_one(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            part = weights.get_slice(_name(path))
            if tuple(part.get_shape()) != leaf.shape:
                raise UserError(
                    f"{folder} is of another model: {_name(path)} has shape "
                    f"{tuple(part.get_shape())} there and {leaf.shape} here."
                )
            return _placed(weights, _name(path), leaf)

        return jax.tree_util.tree_map_with_path(place_one, target)


@dataclasses.dataclass
class PartialReport:
    """What `read_fitting` did. Names of arrays, as "params/query_tower/...".

    Attributes:
      loaded: taken over.
      fresh: of the new model only: they keep their first values.
      other_shape: in both, with different shapes; they keep their first values.
      left_over: of the artifact only.
    """

    loaded: list[str] = dataclasses.field(default_factory=list)
    fresh: list[str] = dataclasses.field(default_factory=list)
    other_shape: list[str] = dataclasses.field(default_factory=list)
    left_over: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = []
        for title in ("loaded", "fresh", "other_shape", "left_over"):
            names = getattr(self, title)
            shown = "" if title == "loaded" else ", ".join(names[:8])
            more = f", and {len(names) - 8} more" if shown and len(names) > 8 else ""
            rows.append(f"{title.replace('_', ' '):<12} {len(names):>4}  {shown}{more}".rstrip())
        return "\n".join(rows)


def read_fitting(place: epath.PathLike, target: Any) -> tuple[Any, PartialReport]:
    """The arrays of an artifact that have a place of the same name and shape in `target`.

    Args:
      place, target: as in `read_artifact`.

    Returns:
      A tree like `target` with None where nothing was taken over, and the report.

    Raises:
      UserError: no artifact, a changed file, or not one array that fits.
    """
    folder = artifact_folder(place)
    check_artifact(folder)
    report = PartialReport()
    with _opened(folder) as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in list(weights.keys())}

        def take(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array | None:
            name = _name(path)
            if shapes.get(name) == leaf.shape:
                report.loaded.append(name)
                return _placed(weights, name, leaf)
            if name in shapes:
                report.other_shape.append(f"{name} {shapes[name]} -> {leaf.shape}")
            else:
                report.fresh.append(name)
            return None

        found = jax.tree_util.tree_map_with_path(take, target)
    report.left_over = sorted(set(shapes) - set(_named(target)))
    if not report.loaded:
        raise UserError(
            f"no array of {folder} fits this model: its arrays have names such as "
            f"{', '.join(sorted(shapes)[:3])}."
        )
    return found, report


def check_artifact(folder: epath.PathLike) -> dict[str, Any]:
    """What `artifact.json` says, once every file is what it says. Raises UserError."""
    folder = epath.Path(folder)
    try:
        with storage.as_os_errors():
            about = json.loads((folder / _ABOUT).read_text())
        if about["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder} has format {about['format_version']}, this mmjax reads {FORMAT_VERSION}."
            )
        files = about["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "" if isinstance(error, FileNotFoundError) else f": {storage.reason(error)}"
        raise storage.failure(error)(
            f"there is no artifact in {folder} (artifact.json cannot be read{why}): a run leaves "
            "one when it is finished."
        ) from error
    with _readable(folder):
        found = _digests(folder)
    for name in sorted({*files, *found}):
        if files.get(name) != found.get(name):
            raise UserError(f"{folder / name} is missing or was changed since it was written.")
    return about


def artifact_folder(place: epath.PathLike) -> epath.Path:
    """The folder of "run://DIR" ("run://gs://BUCKET/DIR") or of an artifact's own path."""
    place = os.fspath(place)
    if place.startswith("run://"):
        return epath.Path(place.removeprefix("run://")).expanduser() / "artifact"
    return epath.Path(place).expanduser()


def parent(kind: str, folder: str) -> dict[str, Any]:
    """What a run was started from: its part, the name of the folder, a hash of its weights; of
    another run's artifact also its config and its own parents, by which one knows what it learned.
    """
    path, digest = epath.Path(folder).expanduser(), hashlib.sha256()
    with _readable(path):
        for file in sorted(path.iterdir()) if path.is_dir() else ():
            if file.name == "config.json" or file.suffix == ".safetensors":
                digest.update(_sha256(file).encode())
    found = {"kind": kind, "name": path.name, "sha256": digest.hexdigest()}
    if (path / _ABOUT).exists():
        about = json.loads((path / _ABOUT).read_text())
        found |= {key: about[key] for key in ("config", "parents") if key in about}
    return found


@contextlib.contextmanager
def _opened(folder: epath.Path) -> Iterator[Any]:
    """The file of the weights, of which single arrays and parts of them can be read."""
    with (
        _readable(folder),
        storage.local_file(folder / _WEIGHTS) as file,
        safe_open(file, framework="numpy") as weights,
    ):
        yield weights


def _readable(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
    return storage.told(
        f"{folder} cannot be read", "see that it can, and give the same command again"
    )


def _placed(weights: Any, name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """One array on the devices that `leaf` names, each process reading its part only."""
    part = weights.get_slice(name)
    read = part.__getitem__ if leaf.shape else lambda _: weights.get_tensor(name)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, read)


def _digests(folder: epath.Path) -> dict[str, str]:
    files = [folder / _WEIGHTS, *sorted((folder / "preprocessing").iterdir())]
    return {str(file.relative_to(folder)): _sha256(file) for file in files if file.exists()}


def _sha256(file: epath.Path) -> str:
    state = hashlib.sha256()
    with file.open("rb") as f:
        while block := f.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def _named(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
