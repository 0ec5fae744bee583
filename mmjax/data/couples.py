"""Couples of things with different labels: the two sides of minimal pairs."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Hashable, Sequence


def couples(names: Sequence[str], labels: Sequence[Hashable]) -> list[tuple[int, int]]:
    """As many couples of things with different labels as there can be, each thing in one at most.

    Drawn by the names: the order in which they come plays no part, and without the things that are
    left over the others would be the same couples.

    Args:
      names: all different.
    """
    order = sorted(range(len(names)), key=lambda i: (_drawn(names[i]), names[i]))
    found: list[tuple[int, int]] = []
    waiting: deque[int] = deque()  # always of one label: two of them would be a couple
    for i in order:
        if waiting and labels[waiting[0]] != labels[i]:
            found.append((waiting.popleft(), i))
        else:
            waiting.append(i)
    # Two that wait, and a couple that has nothing of their label, are two couples.
    for k, (one, other) in enumerate(tuple(found)):
        if len(waiting) < 2:
            break
        if labels[waiting[0]] not in (labels[one], labels[other]):
            found[k] = (one, waiting.popleft())
            found.append((other, waiting.popleft()))
    return found


def _drawn(name: str) -> bytes:
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
