"""Networks of images, from a pretrained folder to the variables of one model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.errors import UserError
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.pretrained.efficientnet import EFFICIENTNET
from mmjax.pretrained.family import Family
from mmjax.pretrained.folder import PretrainedFolder
from mmjax.pretrained.loading import SHOWN, LoadReport, load_entries, read_config
from mmjax.pretrained.resnet import RESNET
from mmjax.pretrained.writing import to_tensors, write_folder

IMAGE_FAMILIES: dict[str, Family] = {"resnet": RESNET, "efficientnet": EFFICIENTNET}


def image_config(folder: PretrainedFolder) -> ImageTowerConfig:
    """The network that the folder's config.json describes.

    Raises UserError for another kind of model, for one that is not supported, and for a key that
    is missing or does not fit.
    """
    # A folder of timm has no model_type, but an architecture.
    model_type = folder.config.get("model_type", "resnet")
    if model_type not in IMAGE_FAMILIES:
        raise UserError(
            f"{folder.path / 'config.json'}: model_type is {model_type!r}; supported as a network "
            f"of images: {', '.join(IMAGE_FAMILIES)}."
        )
    return read_config(folder, IMAGE_FAMILIES[model_type].config)


def load_image_tower(
    folder: PretrainedFolder, config: ImageTowerConfig, target: Mapping[str, Any]
) -> tuple[dict[str, Any], LoadReport]:
    """The folder's weights as the variables of one network of images.

    Args:
        folder: what `load_folder` gave.
        config: of the network that is to take them.
        target: {"params": ..., "batch_stats": ...}, trees of jax.ShapeDtypeStruct; where one has a
            sharding its array is made with it, each process reading its own slices only.

    Returns:
        The tree of jax.Arrays in the target's dtypes, and the report. A classifier is left over.

    Raises UserError, naming the parameter, when a shape does not fit or when the folder has more or
    fewer blocks: a part of a network is no use.
    """
    family = _family(config)
    entries = family.entries(config)
    variables, report = load_entries(folder, entries, family.canonical, target)
    advice = "Build the model from this folder's config.json, or name a complete folder."
    if report.initialised:
        raise UserError(f"{folder.path} lacks {_some(report.initialised)}. {advice}")
    # A head has a name beside these.
    trunk = tuple({entry.name.split(".")[0] + "." for entry in entries})
    more = [n for n in report.left_over if (family.canonical(n) or "").startswith(trunk)]
    if more:
        raise UserError(f"{folder.path} has blocks that the model lacks: {_some(more)}. {advice}")
    return variables, report


def export_image_tower(
    config: ImageTowerConfig, variables: Mapping[str, Any], folder: str | Path
) -> None:
    """Writes a folder that transformers' `AutoModel.from_pretrained` reads.

    Args:
        variables: {"params": ..., "batch_stats": ...} of one network, whole arrays.

    Raises UserError for a network that the format has no words for (a ResNet's small stem), and
    when the folder cannot be written.
    """
    write_folder(Path(folder), *image_content(config, variables))


def image_content(
    config: ImageTowerConfig, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What config.json says of the network, and its tensors; arguments as above.

    Raises UserError for a network that the format has no words for.
    """
    family = _family(config)
    described = family.describe(config)
    trunk = {name: variables[name] for name in ("params", "batch_stats")}
    tensors = to_tensors(family.entries(config), trunk)
    counters = [n.replace("running_mean", "num_batches_tracked") for n in tensors if "_mean" in n]
    tensors |= {name: np.zeros((), np.int64) for name in counters}
    return described, tensors


def _family(config: ImageTowerConfig) -> Family:
    return next(f for f in IMAGE_FAMILIES.values() if isinstance(config, f.kind))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
