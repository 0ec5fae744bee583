"""The names that JDDC 2.1's paper gives to images and to relations of discourse.

Names recur on the third level ("Acceptance" is a reply to a suggestion and to a promise), so a name
is its whole path, with ">" between levels: "Question&Answer>Question>Yes/No".
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BETWEEN = ">"


@functools.cache
def image_categories() -> tuple[str, ...]:
    """The 15 categories: "screenshot>product", "photo>malfunction", ..."""
    groups = _read()["image_categories"]
    return tuple(f"{group}{BETWEEN}{name}" for group, names in groups.items() for name in names)


@functools.cache
def relations() -> Mapping[str, tuple[int, int, int]]:
    """The 33 relations of the third level -> how many train, dev and test have in the paper."""
    return {
        BETWEEN.join((first, second, third)): tuple(counts)
        for first, seconds in _read()["relations"].items()
        for second, thirds in seconds.items()
        for third, counts in thirds.items()
    }


def at_level(relation: str, level: int) -> str:
    """The relation's name on level 1 (5 names), 2 (12) or 3 (33)."""
    return BETWEEN.join(relation.split(BETWEEN)[:level])


def published() -> Mapping[str, int]:
    """Counts of the whole corpus in the paper."""
    return _read()["published"]


@functools.cache
def _read() -> Mapping[str, Any]:
    return json.loads(Path(__file__).with_name("inventory.json").read_text("utf-8"))
