"""Who gets what of whom, where things are exchanged so that nobody keeps their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmjax.errors import UserError


def exchange(contents: Sequence[str], what: str) -> np.ndarray:
    """For each thing another one whose content it gets; those with equal content stay equal.

    Returns:
      int64 [N], in one cycle through the different contents: nobody keeps its own.

    Raises:
      UserError: all contents are the same; `what` they are of.
    """
    first: dict[str, int] = {}
    for i, content in enumerate(contents):
        first.setdefault(content, i)
    if len(first) < 2:
        raise UserError(f"there are no two {what} that differ, so none can be exchanged.")
    known = sorted(first)  # whatever order the things came in
    other = dict(zip(known, cycle(len(known), np.random.default_rng(0)), strict=True))
    return np.array([first[known[other[content]]] for content in contents], np.int64)


def cycle(size: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [size]: a permutation that is one cycle, so that nothing stays where there are two."""
    order = rng.permutation(size)
    other = np.empty(size, np.int64)
    other[order] = np.roll(order, 1)
    return other
