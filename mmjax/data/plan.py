"""Which examples make up global batch number k: pure functions of (seed, k), nothing else.

Shuffling and mixing live here. A batch is found by its number in constant time, so a run that
continues at step k, on any number of processes, sees exactly the examples it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """Rows of one global batch; where examples share rows, [B] is [B, S].

    Attributes:
      source: int32 [B], which of the plan's sources.
      example: int64 [B], number of the example in that source's index; -1 is padding.
      epoch: int64 [B], how often that source has been passed before; random draws of an example
        are folded from (seed, epoch, example).
    """

    source: np.ndarray
    example: np.ndarray
    epoch: np.ndarray

    def rows(self, rows: np.ndarray) -> PlannedBatch:
        """The given rows, as one process reads them."""
        return PlannedBatch(self.source[rows], self.example[rows], self.epoch[rows])

    def members(self) -> list[list[tuple[int, int, int]]]:
        """Of each row the (source, example, epoch) that are in it; none in one that is padding."""
        there = (self.source, self.example, self.epoch)
        columns = [x.reshape(len(x), -1).tolist() for x in there]
        return [
            [member for member in zip(*row, strict=True) if member[1] >= 0]
            for row in zip(*columns, strict=True)
        ]


# A mixture repeats a shuffled pattern of this many positions, in which each source has its share
# to the nearest position: proportions are exact over every pattern, not only in expectation.
_PATTERN = 1024
SMALLEST_SHARE = 1 / _PATTERN


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """An endless shuffled stream over one or several sources.

    Each source is shuffled anew in each of its epochs. A batch may span two epochs, so no
    example is dropped.

    Attributes:
      sizes: examples in each source.
      batch_size: rows of a global batch.
      seed: of the shuffles.
      weights: share of each source in the stream; None: the sources are shuffled as one.
      window: batches whose examples are sorted by length and dealt out anew, so that those of a
        batch are of like lengths and need little padding; the batches of a window come in random
        order. 1: as they are drawn.
      lengths: for each source [size], the length of each example; needed for a window.
    """

    sizes: Sequence[int]
    batch_size: int
    seed: int
    weights: Sequence[float] | None = None
    window: int = 1
    lengths: Sequence[np.ndarray] | None = None

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"every source needs an example, sizes are {list(self.sizes)}")
        if self.window < 1 or (self.window > 1 and self.lengths is None):
            raise ValueError(f"a window of {self.window} batches needs the examples' lengths")
        if self.weights is not None:
            check_weights(self.weights, len(self.sizes))

    @property
    def examples_per_batch(self) -> float:
        """As many as there are rows."""
        return float(self.batch_size)

    def batch(self, k: int) -> PlannedBatch:
        """Global batch number `k` (0 or more)."""
        if self.window == 1:
            return self._drawn(k * self.batch_size, self.batch_size)
        number, turn = divmod(k, self.window)
        size = self.window * self.batch_size
        drawn = self._drawn(number * size, size)
        length = np.empty(size, np.int64)
        for s, lengths in enumerate(self.lengths):
            length[drawn.source == s] = lengths[drawn.example[drawn.source == s]]
        order = np.argsort(length, kind="stable")
        turns = np.arange(self.window, dtype=np.uint64)
        part = int(shuffled_index(turns, self.window, (self.seed, -3, number))[turn])
        return drawn.rows(order[part * self.batch_size : (part + 1) * self.batch_size])

    def _drawn(self, start: int, count: int) -> PlannedBatch:
        """The examples at `count` positions of the stream."""
        position = np.arange(start, start + count, dtype=np.uint64)
        if self.weights is None:
            first = np.cumsum([0, *self.sizes])
            epoch, within = self._pass_over(position, int(first[-1]), key=-2)
            source = np.searchsorted(first, within, side="right") - 1
            return PlannedBatch(source.astype(np.int32), within - first[source], epoch)
        source, turn = self._interleave(position)
        example = np.empty(count, np.int64)
        epoch = np.empty(count, np.int64)
        for s, size in enumerate(self.sizes):
            mine = source == s
            epoch[mine], example[mine] = self._pass_over(turn[mine], size, key=s)
        return PlannedBatch(source, example, epoch)

    def _pass_over(self, turn: np.ndarray, size: int, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and shuffled example of the turns of one source."""
        epoch, within = (part.astype(np.int64) for part in np.divmod(turn, np.uint64(size)))
        example = np.empty(len(turn), np.int64)
        for e in np.unique(epoch):
            rows = epoch == e
            example[rows] = shuffled_index(within[rows], size, (self.seed, key, int(e)))
        return epoch, example

    def _interleave(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each position of the stream, and how often that source came before it."""
        count = apportioned(self.weights, _PATTERN)
        slots = np.repeat(np.arange(len(count), dtype=np.int32), count)
        order = shuffled_index(np.arange(_PATTERN, dtype=np.uint64), _PATTERN, (self.seed, -1))
        pattern = slots[order]
        before = np.zeros(_PATTERN, np.int64)
        for s in range(len(count)):
            before[pattern == s] = np.arange(count[s])
        lap, slot = np.divmod(position, np.uint64(_PATTERN))
        source = pattern[slot]
        return source, (lap.astype(np.int64) * count[source] + before[slot]).astype(np.uint64)


@dataclasses.dataclass(frozen=True)
class EvalPlan:
    """Every example once, in `order`, the last batch padded with -1.

    Attributes:
      order: int64 [N], numbers of examples (sorted by length they need less padding).
      batch_size: rows of a global batch.
    """

    order: np.ndarray
    batch_size: int

    def __len__(self) -> int:
        """Number of batches, the same on every process."""
        return -(-len(self.order) // self.batch_size)

    def batch(self, k: int) -> PlannedBatch:
        """Global batch number `k` of `len(self)`."""
        example = np.full(self.batch_size, -1, np.int64)
        part = self.order[k * self.batch_size : (k + 1) * self.batch_size]
        example[: len(part)] = part
        zeros = np.zeros(self.batch_size, np.int64)
        return PlannedBatch(zeros.astype(np.int32), example, zeros)


def check_weights(weights: Sequence[float], sources: int) -> None:
    """Raises ValueError for weights that make no mixture of so many sources."""
    if len(weights) != sources or min(weights) <= 0:
        raise ValueError(f"{sources} sources need as many positive weights, not {list(weights)}")
    if min(weights) < SMALLEST_SHARE * sum(weights):
        raise ValueError(f"a weight is below 1/{_PATTERN} of the sum: {list(weights)}")


def apportioned(weights: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """`total` things in proportion to positive weights, by the largest remainder: int64 [N]."""
    weights = np.asarray(weights, np.float64)
    ideal = weights / weights.sum() * total
    count = np.floor(ideal).astype(np.int64)
    for i in np.argsort(count - ideal, kind="stable")[: total - count.sum()]:
        count[i] += 1
    return count


def shuffled_index(
    index: np.ndarray, size: int | np.ndarray, key: tuple[int | np.ndarray, ...]
) -> np.ndarray:
    """Images of `index` under a pseudo-random permutation of range(size) chosen by `key`.

    A balanced Feistel network over the smallest even number of bits that holds `size`; values
    that fall outside are sent through it again until they are inside (cycle walking), which keeps
    it a permutation. Costs the same for any index, needs no table, and does not depend on the
    version of a library.

    Args:
      index: uint64 array with values in [0, size).
      size: 1 or more, below 2^53; an array like `index` where each value has a permutation of its
        own.
      key: integers, or such arrays of them.

    Returns:
      int64 array.
    """
    value = np.asarray(index, np.uint64).copy()
    bits = np.frexp(np.asarray(size) - 1.0)[1]  # of the largest value
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    low = (np.uint64(1) << half) - np.uint64(1)
    sizes, half, low = (np.broadcast_to(x, value.shape) for x in (size, half, low))
    round_keys = np.broadcast_to(_round_keys(key), (_ROUNDS, *value.shape))
    todo = np.ones(value.shape, bool)
    while todo.any():
        bits, mask = half[todo], low[todo]
        left, right = value[todo] >> bits, value[todo] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + round_key[todo]) & mask)
        value[todo] = (left << bits) | right
        todo &= value >= sizes.astype(np.uint64)
    return value.astype(np.int64)


_ROUNDS = 8


def _round_keys(key: tuple[int | np.ndarray, ...]) -> np.ndarray:
    """[rounds, 1], or [rounds, n] where the key holds arrays."""
    state = np.zeros(1, np.uint64)  # an array: scalars would warn when they wrap around
    for part in key:
        number = np.uint64(part % (1 << 64)) if isinstance(part, int) else part.astype(np.uint64)
        state = _mix(state + number)
    return _mix(state + np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None])


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014), on uint64 with wrap-around."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
