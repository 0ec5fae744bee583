"""Splits that keep the proportions of categories (multi-label iterative stratification)."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mmjax.errors import UserError


def stratified_split(
    categories: Sequence[Collection[str]],
    sizes: Mapping[str, int],
    *,
    photos: Sequence[str] | None = None,
    repeats_in: str = "train",
    seed: int = 0,
) -> list[str | None]:
    """The split of each item; None for what is left over.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, algorithm 1): the
    rarest category first, each of its items goes to the split that still wants most of it. Beyond
    that, a split that has its size takes no more, so that sizes are exact; what is left over is a
    split like the others, so that it keeps the proportions too; and at the end pairs of items
    change places while that brings the proportions closer, since exact sizes leave the commonest
    category, which is dealt out last, with what the others want.

    Args:
      categories: of each item, any number.
      sizes: split -> number of items.
      photos: of each item. A photo of several items is in `repeats_in` alone (or left over), so
        that every other split has photos that no one else has.
      seed: the same arguments and seed give the same split.

    Raises:
      UserError: more items are asked for than there are, a size is negative, or `repeats_in` is no
        split or has no room for the photos that repeat.
    """
    count, wanted = len(categories), sum(sizes.values())
    if wanted > count or min(sizes.values(), default=0) < 0:
        raise UserError(
            f"Splits of {', '.join(f'{n:,} ({name})' for name, n in sizes.items())} cannot be made "
            f"of {count:,} photos: choose sizes that add up to no more."
        )
    times = collections.Counter(photos)
    repeated = [photos is not None and times[photos[i]] > 1 for i in range(count)]
    if any(repeated) and repeats_in not in sizes:
        raise UserError(f"No split is called {repeats_in!r}, which takes the photos that repeat.")
    room: dict[str | None, int] = {**sizes, None: count - wanted}
    if sum(repeated) > room.get(repeats_in, 0) + room[None]:
        raise UserError(
            f"{sum(repeated):,} items have a photo that repeats, and {repeats_in!r} has "
            f"{sizes[repeats_in]:,} places: make it larger, or the other splits smaller."
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    # How much of each category a split still wants: its share of all of them.
    wants = {name: collections.Counter() for name in room}
    for category, total in collections.Counter(c for own in categories for c in set(own)).items():
        for name, n in room.items():
            wants[name][category] = total * n / count
    found: list[str | None] = [None] * count
    for open_to, items in (
        ((repeats_in, None), [i for i in order if repeated[i]]),
        (tuple(room), [i for i in order if not repeated[i]]),
    ):
        _deal(items, categories, open_to, room, wants, found, rng)
    _exchange([i for i in order if not repeated[i]], categories, found)
    return found


def _deal(
    items: Sequence[int],
    categories: Sequence[Collection[str]],
    open_to: Sequence[str | None],
    room: dict[str | None, int],
    wants: Mapping[str | None, collections.Counter],
    found: list[str | None],
    rng: np.random.Generator,
) -> None:
    """Algorithm 1 over `items`; takes what it deals out from `room` and `wants`."""
    left = dict.fromkeys(items)  # in order, with quick removal
    remaining = collections.Counter(c for i in items for c in set(categories[i]))
    while left:
        # Sorted: what a set yields first differs from one process to the next.
        rarest = min(sorted(c for c in remaining if remaining[c]), key=remaining.get, default=None)
        for i in [i for i in left if rarest is None or rarest in categories[i]]:
            best: list[str | None] = []
            most = None
            for name in open_to:
                want = (wants[name][rarest] if rarest is not None else 0.0, room[name])
                if room[name] > 0 and (most is None or want >= most):
                    best, most = ([*best, name] if want == most else [name]), want
            name = best[rng.integers(len(best))]
            found[i] = name
            room[name] -= 1
            for category in set(categories[i]):
                wants[name][category] -= 1
                remaining[category] -= 1
            del left[i]


def _exchange(
    items: Sequence[int], categories: Sequence[Collection[str]], found: list[str | None]
) -> None:
    """Swaps two of `items` at a time, the best pair first.

    Minimised is the sum over splits and categories of (share in the split - overall share)^2, until
    no swap makes it less.
    """
    names = sorted({c for own in categories for c in own})
    if not names:
        return
    member = np.array([[c in own for c in names] for own in categories], np.float64)  # [N, C]
    splits = sorted(set(found), key=str)
    where = np.array([splits.index(name) for name in found])
    sizes = np.bincount(where, minlength=len(splits)).astype(np.float64)
    # What is too many of each category in each split: [S, C].
    excess = np.stack([member[where == s].sum(0) for s in range(len(splits))])
    excess -= sizes[:, None] * member.mean(0)
    kinds, kind_of = np.unique(member, axis=0, return_inverse=True)  # [K, C], [N]
    held = [[collections.deque() for _ in kinds] for _ in splits]  # items by split and kind
    for i in items:
        held[where[i]][kind_of[i]].append(i)
    inner = kinds @ kinds.T
    apart = np.diag(inner)[:, None] + np.diag(inner) - 2 * inner  # |x_a - x_b|^2, [K, K]
    pairs = [(s, t) for s in range(len(splits)) for t in range(s)]
    while pairs:
        best = (-1e-12, None)
        for s, t in pairs:
            # s gives an item of kind a for one of kind b: its excess changes by x_b - x_a.
            slope = kinds @ (2 * excess[s] / sizes[s] ** 2 - 2 * excess[t] / sizes[t] ** 2)
            give, take = (np.flatnonzero([bool(own) for own in held[x]]) for x in (s, t))
            if not len(give) or not len(take):
                continue
            change = slope[take] - slope[give, None]
            change += apart[np.ix_(give, take)] * (sizes[s] ** -2 + sizes[t] ** -2)
            a, b = np.unravel_index(change.argmin(), change.shape)
            best = min(best, (change[a, b], (s, t, give[a], take[b])), key=lambda x: x[0])
        if best[1] is None:
            return
        s, t, a, b = best[1]
        mine, other = held[s][a].popleft(), held[t][b].popleft()
        found[mine], found[other] = splits[t], splits[s]
        held[s][b].append(other)
        held[t][a].append(mine)
        excess[s] += kinds[b] - kinds[a]
        excess[t] -= kinds[b] - kinds[a]
