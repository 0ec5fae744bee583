"""Numbers from a config.json, within limits: a file is not to make a program build without end."""

from __future__ import annotations

from typing import Any

# Far beyond any network there is.
MAX_STAGES, MAX_DEPTH, MAX_WIDTH = 8, 512, 1 << 16


def size(value: Any, key: str, high: int, low: int = 1) -> int:
    """The value; raises ValueError, naming the key, when it is no whole number from low to high."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"{key} has {value!r}, where a whole number from {low} to {high} is needed"
        )
    return value


def sizes(config: dict[str, Any], key: str, high: int) -> tuple[int, ...]:
    """The key's list of whole numbers, one per stage; raises ValueError for anything else."""
    values = config[key]
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_STAGES:
        raise ValueError(f"{key} is {values!r}, not a list of 1 to {MAX_STAGES} numbers")
    return tuple(size(value, key, high) for value in values)
