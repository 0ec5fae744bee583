"""One row out of several examples, whose features stand one after another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mmjax.data.featurize import Lazy, Ragged

# Says of each token of a row which of its examples it belongs to: 1, 2, ...; 0 is padding.
NUMBER = "dialogue"


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the examples of a task share rows. Features that are not named here are only joined.

    Attributes:
      limits: what a row holds at most of each of these lengths of the index: of the tokens first.
      ragged: as `Featurizer.ragged`, for the features of a row; one per token is padded to that
        limit. All features that are not `lists` must be there.
      positions: features whose values are positions of tokens in their example; in a row, in it.
      numbers: feature -> length of the index. Its values count from 1 what that length tells the
        number of (0: nothing), and count on through a row.
      lists: feature -> length of the index, with a limit. Of the feature's first axis the example
        has so many entries, and what comes then is padding; a row has as many as the limit.
    """

    limits: Mapping[str, int]
    ragged: Mapping[str, Ragged]
    positions: Collection[str] = ()
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> str:
        """The length of the index that fills rows."""
        return next(iter(self.limits))

    @property
    def lengths(self) -> set[str]:
        """Those of the index that making a row needs."""
        return {*self.limits, *self.numbers.values(), *self.lists.values()}

    @property
    def row_length(self) -> int:
        """Tokens of a row, with padding."""
        return self.limits[self.tokens]


def pack_row(
    examples: Sequence[Mapping[str, np.ndarray]],
    lengths: Mapping[str, Sequence[int]],
    packing: Packing,
) -> Mapping[str, np.ndarray]:
    """The features of a row, and `NUMBER`; each is made when it is asked for.

    Args:
      examples: the features of one or more.
      lengths: of each example, those of the index that the packing names.

    Raises:
      ValueError: a feature that has no place in a row.
    """
    make: dict[str, Callable[[], np.ndarray]] = {}
    for name in examples[0]:
        if name in packing.lists:
            counts = lengths[packing.lists[name]]
            limit = packing.limits[packing.lists[name]]
            make[name] = functools.partial(_listed, examples, name, counts, limit)
        elif name in packing.ragged:
            shift = _before(lengths, name, packing)
            make[name] = functools.partial(_joined, examples, name, shift, name in packing.numbers)
        else:
            raise ValueError(
                f"feature {name!r} has one value per example, and no place in a row of several"
            )
    tokens = lengths[packing.tokens]
    make[NUMBER] = lambda: np.repeat(np.arange(1, len(tokens) + 1, dtype=np.int32), tokens)
    return Lazy(**make)


def _before(
    lengths: Mapping[str, Sequence[int]], name: str, packing: Packing
) -> Sequence[int] | None:
    """What is added to a feature's values in each example; None: nothing ever is."""
    counted = packing.tokens if name in packing.positions else packing.numbers.get(name)
    return None if counted is None else np.cumsum([0, *lengths[counted][:-1]])


def _joined(
    examples: Sequence[Mapping[str, np.ndarray]],
    name: str,
    shift: Sequence[int] | None,
    from_one: bool,
) -> np.ndarray:
    parts = [example[name] for example in examples]
    for i, more in enumerate(() if shift is None else shift):
        moved = np.where(parts[i] > 0, parts[i] + more, 0) if from_one else parts[i] + more
        parts[i] = moved.astype(parts[i].dtype)
    return np.concatenate(parts)


def _listed(
    examples: Sequence[Mapping[str, np.ndarray]], name: str, counts: Sequence[int], limit: int
) -> np.ndarray:
    parts = [example[name][:count] for example, count in zip(examples, counts, strict=True)]
    row = np.concatenate(parts)
    padded = np.zeros((limit, *row.shape[1:]), row.dtype)
    padded[: len(row)] = row
    return padded
