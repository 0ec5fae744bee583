"""What `--mode=export` leaves: a folder per model in Hugging Face's layout, below RUN/export.

A reader takes no folder without config.json for a model. So the files of that name are the first
that an earlier export loses and the last that this one writes: what is unfinished is no model,
and nothing relies on renaming, which object stores lack.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from safetensors.numpy import save

from mmjax import storage
from mmjax.pretrained.exported import ModelFolder

CONFIG = "config.json"


def write_export(
    folder: epath.PathLike, models: Sequence[ModelFolder], about: Mapping[str, Any]
) -> list[str]:
    """Writes the models in place of an earlier export; returns their folders.

    Args:
      about: what the cards say of the run, see `card`.

    Raises:
      UserError: they cannot be written.
    """
    folder = epath.Path(folder)
    with storage.told(
        f"{folder} cannot be written", "free space, and the same command writes it again"
    ):
        if folder.exists():
            for old in folder.glob(f"*/{CONFIG}"):
                old.unlink()
            folder.rmtree()
        for model in models:
            _write(folder / model.name, model, about)
        for model in models:
            text = json.dumps(dict(model.config), indent=1, ensure_ascii=False)
            storage.write_text(folder / model.name / CONFIG, text + "\n")
    return [os.fspath(folder / model.name) for model in models]


def card(model: ModelFolder, about: Mapping[str, Any]) -> str:
    """README.md of a model's folder.

    Args:
      about: "label" and "dataset" of the run, and its "figures" on dev, a mapping that is empty
        where there are none.
    """
    rows = "".join(f"| {name} | {value:.4g} |\n" for name, value in about["figures"].items())
    figures = f"\nThe run on the dev split:\n\n| | |\n|---|---:|\n{rows}" if rows else ""
    library = "library_name: transformers\n" if "model_type" in model.config else ""
    return (
        f"---\n{library}tags:\n- mmjax\n---\n\n"
        f"# {about['label']}: {model.name}\n\n{model.card}\n"
        f"Trained with mmjax on {about['dataset']}.\n{figures}\n"
        "No licence is stated here: it follows from the training data, and from the weights that "
        "training began with. Add it before you pass the model on.\n"
    )


def _write(folder: epath.Path, model: ModelFolder, about: Mapping[str, Any]) -> None:
    """Everything but config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(dict(model.tensors), metadata={"format": "pt"})
    files = {"model.safetensors": weights, "README.md": card(model, about).encode(), **model.files}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        storage.write_bytes(folder / name, content)
