"""Which examples share the rows of global batch number k: pure functions of (lengths, seed, k).

Filling up rows is done once, on lengths alone: it says of each place of each row how long the
example there is. An epoch deals the examples out anew among the places of their length, and
shuffles the rows. So every epoch has the same number of rows and holds each example once, and a
batch is found by its number in constant time, as `TrainPlan` finds it. Two examples whose lengths
no other has always meet in one row; as they do not see each other, that changes no more than which
batches they are in.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from mmjax.data.plan import PlannedBatch, shuffled_index


@dataclasses.dataclass(frozen=True)
class PackedPlan:
    """An endless shuffled stream of rows, each with several whole examples.

    Sources are shuffled as one. A batch may span two epochs, so no example is dropped.

    Attributes:
      lengths: for each source int [N, D], of each example D lengths, its tokens first.
      limits: D numbers: what a row holds at most of each.
      batch_size: rows of a global batch.
      seed: of the shuffles.
    """

    lengths: Sequence[np.ndarray]
    limits: Sequence[int]
    batch_size: int
    seed: int

    def __post_init__(self):
        if min(map(len, self.lengths), default=0) < 1:
            raise ValueError(f"every source needs an example: {[len(x) for x in self.lengths]}")
        longest = np.max([x.max(axis=0) for x in self.lengths], axis=0)
        if (longest > np.array(self.limits)).any():
            raise ValueError(
                f"an example of {longest.tolist()} does not fit into a row of {list(self.limits)}"
            )
        if min(x[:, 0].min() for x in self.lengths) < 1:
            raise ValueError("an example without a token has no place in a row")
        _ = self._filled  # now, and not in each thread that asks for a batch

    @property
    def rows(self) -> int:
        """Rows of each epoch."""
        return len(self._filled.first) - 1

    @property
    def examples_per_batch(self) -> float:
        """On average over an epoch."""
        return len(self._filled.example) / self.rows * self.batch_size

    @property
    def padding(self) -> float:
        """Share of an epoch's tokens."""
        return 1 - sum(int(x[:, 0].sum()) for x in self.lengths) / (self.rows * self.limits[0])

    def batch(self, k: int) -> PlannedBatch:
        """Global batch number `k` (0 or more): arrays [B, S], S the most examples of any row."""
        filled = self._filled
        position = np.arange(k * self.batch_size, (k + 1) * self.batch_size, dtype=np.uint64)
        epoch, within = (x.astype(np.int64) for x in np.divmod(position, np.uint64(self.rows)))
        row = shuffled_index(within, self.rows, (self.seed, -4, epoch))
        count = filled.first[row + 1] - filled.first[row]
        column = np.arange(filled.most)
        here = column < count[:, None]  # [B, S]
        place = filled.place[(filled.first[row][:, None] + column)[here]]
        epoch = np.broadcast_to(epoch[:, None], here.shape)
        example = np.full(here.shape, -1, np.int64)
        source = np.zeros(here.shape, np.int32)
        start = np.cumsum([0, *map(len, self.lengths)])
        dealt = self._dealt(place, epoch[here])
        source[here] = np.searchsorted(start, dealt, side="right") - 1
        example[here] = dealt - start[source[here]]
        return PlannedBatch(source, example, epoch)

    def _dealt(self, place: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """The example that each place has in an epoch, counted through all sources."""
        filled = self._filled
        kind = np.searchsorted(filled.begin, place, side="right") - 1
        begin = filled.begin[kind]
        alike = filled.begin[kind + 1] - begin
        return filled.example[
            begin + shuffled_index(place - begin, alike, (self.seed, -5, epoch, kind))
        ]

    @functools.cached_property
    def _filled(self) -> _Filled:
        kinds, kind, count = np.unique(
            np.concatenate(self.lengths), axis=0, return_inverse=True, return_counts=True
        )
        row = fill_rows(kinds, count, self.limits)
        place = np.argsort(row, kind="stable")
        first = np.searchsorted(row[place], np.arange(row.max() + 2))
        return _Filled(
            example=np.argsort(kind.reshape(-1), kind="stable"),
            begin=np.cumsum([0, *count]),
            place=place,
            first=first,
            most=int(np.diff(first).max()),
        )


@dataclasses.dataclass(frozen=True)
class _Filled:
    """Places are numbered by the lengths of what they hold.

    Attributes:
      example: int64 [N], examples sorted by their lengths, through all sources.
      begin: int64 [K + 1], the first place of each of the K kinds of lengths.
      place: int64 [N], the places of all rows, one row after another.
      first: int64 [R + 1], where in `place` each row begins.
      most: examples of a row.
    """

    example: np.ndarray
    begin: np.ndarray
    place: np.ndarray
    first: np.ndarray
    most: int


def fill_rows(kinds: np.ndarray, count: np.ndarray, limits: Sequence[int]) -> np.ndarray:
    """A row for each item, so that no row holds more than `limits`.

    The longest first, each into the fullest row that has room for it: best fit decreasing, which
    for one length needs at most 11/9 of the fewest rows that there can be, and 4 (Johnson et al.
    1974). Items of one kind are placed together, so that a million cost little more than a few.

    Args:
      kinds: int [K, D], D lengths each, in increasing order, the first at least 1.
      count: int [K], items of each kind.
      limits: D numbers, none smaller than a length.

    Returns:
      int64 [N], the row of each item, one kind after another.
    """
    row = np.empty(int(np.sum(count)), np.int64)
    end, made = len(row), 0
    rooms: list[tuple[int, ...]] = []  # that rows have left, in increasing order
    rows: dict[tuple[int, ...], list[np.ndarray]] = {}  # by what they have left

    def leave(room: tuple[int, ...], found: np.ndarray) -> None:
        if room[0] and len(found):
            if room not in rows:
                bisect.insort(rooms, room)
            rows.setdefault(room, []).append(found)

    for kind, left in zip(kinds[::-1].tolist(), count[::-1].tolist(), strict=True):
        begin, kind = end - left, tuple(kind)
        while left:
            after = itertools.islice(rooms, bisect.bisect_left(rooms, kind), None)
            room = next(
                (r for r in after if all(a >= b for a, b in zip(r, kind, strict=True))), None
            )
            if room is None:
                room = tuple(limits)
                most = _most(room, kind)
                found = np.arange(made, made - (-left // most))
                made += len(found)
            else:
                most = _most(room, kind)
                rooms.remove(room)
                found = np.concatenate(rows.pop(room))
            take = min(left, most * len(found))
            row[end - take : end] = np.repeat(found, most)[:take]
            end, left = end - take, left - take
            # Those that took as many as they hold, one that took the rest, and those left alone.
            full, rest = divmod(take, most)
            leave(_after(room, kind, most), found[:full])
            leave(_after(room, kind, rest), found[full : full + 1])
            leave(room, found[full + 1 :])
        end = begin
    return row


def _most(room: Sequence[int], kind: Sequence[int]) -> int:
    """Items of a kind that the room holds."""
    return min(a // b for a, b in zip(room, kind, strict=True) if b)


def _after(room: Sequence[int], kind: Sequence[int], items: int) -> tuple[int, ...]:
    return tuple(a - items * b for a, b in zip(room, kind, strict=True))
