"""One model as it is given to others: a folder in Hugging Face's layout, still in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ModelFolder:
    """Attributes:
    name: of the folder.
    config: what config.json says.
    tensors: of model.safetensors.
    card: the body of its README.md: what it computes, and how it is fed.
    files: others by their path in the folder (the tokenizer).
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    card: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def linear(params: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A projection as the tensors of a `torch.nn.Linear`: weight [out, in], bias [out]."""
    weight = np.ascontiguousarray(np.asarray(params["kernel"]).T)
    return {f"{name}.weight": weight, f"{name}.bias": np.asarray(params["bias"])}
