"""Reading the keys of a config.json: what is there is checked, and refused in words."""

from __future__ import annotations

from typing import Any

from mmjax.errors import UserError
from mmjax.pretrained.limits import size

# Far beyond any transformer there is.
MAX_LAYERS, MAX_SIZE = 1024, 1 << 22

# Names in config.json and here. One function has several names there; the first is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


def whole(config: dict[str, Any], key: str, high: int = MAX_SIZE) -> int:
    """The whole number from 1 to `high` under `key`; ValueError for what is none."""
    return size(config[key], key, high)


def number(config: dict[str, Any], key: str, low: float = 0, below: float = 1) -> float:
    """The number under `key`, within these bounds; ValueError for what is none."""
    value = config[key]
    if type(value) not in (int, float) or not low <= value < below:
        raise ValueError(
            f"{key} is {value!r}, where a number from {low} to below {below} is needed"
        )
    return value


def activation_of(config: dict[str, Any], key: str) -> str:
    """Our name of the activation under `key`; UserError for one that is not supported."""
    if config[key] not in (*ACTIVATIONS,):  # it may be no string
        raise UserError(
            f"config.json: {key} is {config[key]!r}; supported: {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[config[key]]


def activation_name(activation: str) -> str:
    """The name of our activation in a config.json."""
    return {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[activation]


def refuse_unless(config: dict[str, Any], **supported: Any) -> None:
    """UserError when a key is there with another value than the one supported."""
    for key, only in supported.items():
        if config.get(key, only) != only:
            raise UserError(f"config.json: {key} is {config[key]!r}; supported: {only!r}.")
