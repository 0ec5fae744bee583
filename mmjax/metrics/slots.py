"""Slots of answers: the word in them that names what a photo shows."""

from __future__ import annotations

import re
from collections.abc import Collection


class Fillers:
    """What a slot may be filled with.

    Args:
      labels: names of things; at least one.
    """

    def __init__(self, labels: Collection[str]):
        if not labels:
            raise ValueError("there are no labels that could fill a slot")
        # The longest first, so that a t-shirt is no shirt; Latin words as a whole, so that a hat is
        # not in "that", while Chinese is written without spaces.
        longest = sorted({label.casefold() for label in labels}, key=lambda x: (-len(x), x))
        self._pattern = re.compile("|".join(map(_alone, longest)))

    def named(self, text: str) -> frozenset[str]:
        """The labels that a text names, in lower case."""
        return frozenset(self._pattern.findall(text.casefold()))


def _alone(label: str) -> str:
    before = r"(?<![a-z0-9-])" if re.match("[a-z0-9]", label) else ""
    after = r"(?![a-z0-9-])" if re.search("[a-z0-9]$", label) else ""
    return before + re.escape(label) + after
