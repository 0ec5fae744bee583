"""A Hugging Face folder, local or fetched from the hub: its config and its tensors, read lazily.

Only safetensors are read. Pickled weights run code when they are opened, so they are refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mmjax.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
]
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class PretrainedFolder:
    """`path` is the local folder (the tokenizer's too), `config` what config.json holds."""

    path: Path
    config: dict[str, Any]
    tensors: Tensors


def load_folder(path_or_hub_id: str | Path) -> PretrainedFolder:
    """Opens a folder with config.json and safetensors; no tensor is read yet.

    A name that is no folder on this machine is taken as a hub id ("owner/name") and fetched
    through `huggingface_hub` (or found in its cache).

    Raises UserError when there is no such folder and the hub cannot give it, when config.json is
    missing or unreadable, and when there are no weights, only pickled ones, or damaged ones.
    """
    path = Path(path_or_hub_id).expanduser()
    if not path.is_dir():
        path = _fetch(str(path_or_hub_id))
    config = _read_json(path / "config.json")
    return PretrainedFolder(path, config, Tensors(path))


class Tensors:
    """The tensors of a folder's safetensors files by name; a read touches only what it returns."""

    def __init__(self, folder: Path):
        self.folder = folder
        files = _weight_files(folder)
        self._file_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file in files:
            try:
                self._open[file] = safe_open(file, framework="numpy")
            except (SafetensorError, OSError) as e:
                raise UserError(
                    f"{file} is damaged or incomplete ({e}). Copy or download the file again."
                ) from e
            self._file_of.update(dict.fromkeys(self._open[file].keys(), file))

    def names(self) -> list[str]:
        return sorted(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """The part of the tensor under `index` (one slice per axis), in the dtype it is stored."""
        return self._slice(name)[index]

    def _slice(self, name: str) -> Any:
        return self._open[self._file_of[name]].get_slice(name)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f'{index} has no "weight_map". Copy or download the folder again.')
        files = [folder / name for name in sorted(set(weight_map.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)}, which {index.name} names. "
                "Copy or download the missing files."
            )
        return files
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    if files:
        raise UserError(
            f"{folder} holds {len(files)} safetensors files but neither model.safetensors nor "
            "model.safetensors.index.json, which says what belongs together. Add the index, or "
            "leave one file."
        )
    pickled = [file.name for pattern in PICKLED for file in sorted(folder.glob(pattern))]
    if pickled:
        raise UserError(
            f"{folder} holds only pickled weights ({', '.join(pickled)}), which can run code when "
            "opened and are refused. Convert them in a place you trust: load the folder with "
            "transformers' AutoModel.from_pretrained and write it with "
            "save_pretrained(folder, safe_serialization=True)."
        )
    raise UserError(
        f"{folder} holds no weights: a *.safetensors file is needed beside config.json."
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file} is missing. Name a folder in Hugging Face's layout.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{file} cannot be read as JSON ({e}). Copy or download it again.") from e
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object. Copy or download it again.")
    return content


def _fetch(hub_id: str) -> Path:
    if not HUB_ID.fullmatch(hub_id):
        raise UserError(f"There is no folder {hub_id}. Name a local folder or a hub id.")
    import huggingface_hub  # slow to import, and only needed here

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise UserError(
            f"{hub_id!r} is no folder here, and the Hugging Face hub did not give it ({reason}). "
            "Check the name and the network, or copy the model to a local folder and name that."
        ) from e
