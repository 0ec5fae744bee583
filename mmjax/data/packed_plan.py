"""Which examples share the rows of global batch number k: pure functions of (lengths, seed, k).

Filling up rows is done once, on lengths alone: it says of each place of each row how long the
example there is. An epoch deals the examples out anew among the places of their length, and
shuffles the rows. So every epoch has the same number of rows and holds each example once, and a
batch is found by its number in constant time, as `TrainPlan` finds it. Two examples whose lengths
no other has always meet in one row; as they do not see each other, that changes no more than which
batches they are in.

A mixture with weights has rounds in place of epochs: in each, a source has places in proportion to
its weight, and among them as many of each length as it has examples of that length, to the nearest
place. A round is just so long that no source has fewer places than examples; those of a length pass
by in turn, so that one that does not fit into this round is in the next.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from mmjax.data.plan import PlannedBatch, apportioned, check_weights, shuffled_index


@dataclasses.dataclass(frozen=True)
class PackedPlan:
    """An endless shuffled stream of rows, each with several whole examples.

    A batch may span two epochs, so no example is dropped.

    Attributes:
      lengths: for each source int [N, D], of each example D lengths, its tokens first.
      limits: D numbers: what a row holds at most of each.
      batch_size: rows of a global batch.
      seed: of the shuffles.
      weights: share of each source in the examples; None: the sources are shuffled as one.
    """

    lengths: Sequence[np.ndarray]
    limits: Sequence[int]
    batch_size: int
    seed: int
    weights: Sequence[float] | None = None

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
        if self.weights is not None:
            check_weights(self.weights, len(self.lengths))
        _ = self._filled  # now, and not in each thread that asks for a batch

    @property
    def rows(self) -> int:
        """Rows of each epoch, or round of a mixture."""
        return len(self._filled.first) - 1

    @property
    def examples_per_batch(self) -> float:
        """On average over an epoch."""
        return int(self._filled.begin[-1]) / self.rows * self.batch_size

    @property
    def padding(self) -> float:
        """Share of an epoch's tokens."""
        return 1 - self._filled.tokens / (self.rows * self.limits[0])

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
        epoch = np.tile(epoch[:, None], (1, filled.most))
        example = np.full(here.shape, -1, np.int64)
        source = np.zeros(here.shape, np.int32)
        start = np.cumsum([0, *map(len, self.lengths)])
        dealt, epoch[here] = self._dealt(place, epoch[here])
        source[here] = np.searchsorted(start, dealt, side="right") - 1
        example[here] = dealt - start[source[here]]
        return PlannedBatch(source, example, epoch)

    def _dealt(self, place: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The example that each place has in an epoch or round number `turn`, counted through all
        sources, and how often that example has been there before."""
        filled = self._filled
        kind = np.searchsorted(filled.begin, place, side="right") - 1
        begin = filled.begin[kind]
        alike = filled.begin[kind + 1] - begin
        slot = begin + shuffled_index(place - begin, alike, (self.seed, -5, turn, kind))
        group = np.searchsorted(filled.slot, slot, side="right") - 1
        slots, size = (np.diff(of)[group] for of in (filled.slot, filled.member))
        before, within = np.divmod(turn * slots + slot - filled.slot[group], size)
        return filled.example[filled.member[group] + within], before

    @functools.cached_property
    def _filled(self) -> _Filled:
        kinds, kind = np.unique(np.concatenate(self.lengths), axis=0, return_inverse=True)
        kind, sources = kind.reshape(-1), len(self.lengths)
        source = np.repeat(np.arange(sources), [len(x) for x in self.lengths])
        group, size = np.unique(kind * sources + source, return_counts=True)
        slots = self._slots(group % sources, size)
        count = np.zeros(len(kinds), np.int64)
        np.add.at(count, group // sources, slots)
        row = fill_rows(kinds, count, self.limits)
        place = np.argsort(row, kind="stable")
        first = np.searchsorted(row[place], np.arange(row.max() + 2))
        return _Filled(
            example=np.argsort(kind, kind="stable"),
            begin=np.cumsum([0, *count]),
            slot=np.cumsum([0, *slots]),
            member=np.cumsum([0, *size]),
            place=place,
            first=first,
            most=int(np.diff(first).max()),
            tokens=int(kinds[:, 0] @ count),
        )

    def _slots(self, source: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Places of each group in an epoch or round.

        Args:
          source: int [G], of a group's examples; size: int [G], how many they are.
        """
        if self.weights is None:
            return size
        per_weight = max(len(x) / w for x, w in zip(self.lengths, self.weights, strict=True))
        slots = np.empty_like(size)
        for s, weight in enumerate(self.weights):
            mine = source == s
            slots[mine] = apportioned(size[mine], round(weight * per_weight))
        return slots


@dataclasses.dataclass(frozen=True)
class _Filled:
    """Places are numbered by the lengths of what they hold. A group is a source's examples of one
    kind of lengths; without weights there are as many places as examples.

    Attributes:
      example: int64 [N], examples sorted by their lengths, through all sources.
      begin: int64 [K + 1], the first place of each of the K kinds of lengths.
      slot: int64 [G + 1], the first place of each of the G groups, before an epoch's shuffle.
      member: int64 [G + 1], where in `example` each group begins.
      place: int64 [P], the places of all rows, one row after another.
      first: int64 [R + 1], where in `place` each row begins.
      most: examples of a row.
      tokens: of all places.
    """

    example: np.ndarray
    begin: np.ndarray
    slot: np.ndarray
    member: np.ndarray
    place: np.ndarray
    first: np.ndarray
    most: int
    tokens: int


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
