"""From one example's features to a padded batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """A feature of varying length, padded to the smallest bucket that holds a global batch.

    Few buckets keep the number of compiled programs small; the last one is the longest length
    there is.

    Attributes:
      pad: value of the padding.
      buckets: increasing lengths.
    """

    pad: int
    buckets: tuple[int, ...]

    def padded_length(self, longest: int) -> int:
        """The bucket for a global batch whose longest example has `longest` elements."""
        for bucket in self.buckets:
            if longest <= bucket:
                return bucket
        raise ValueError(f"{longest} elements do not fit the longest bucket {self.buckets[-1]}")


def buckets_up_to(max_length: int, per_octave: int = 1) -> tuple[int, ...]:
    """16, 32, 64, 128, ... and `max_length` itself.

    Args:
      per_octave: 2 adds 24, 48, 96, ...; 4 also 20, 28, 40, 56, ...: more programs to compile,
        less padding where batches are of like lengths.
    """
    octaves = (16 << k for k in range(max_length.bit_length()))
    lengths = (octave + octave * i // per_octave for octave in octaves for i in range(per_octave))
    return (*(n for n in lengths if n < max_length), max_length)


class Lazy(Mapping[str, np.ndarray]):
    """Features that are made when they are asked for, and not before."""

    def __init__(self, **make: Callable[[], np.ndarray]):
        self._make = make

    def __getitem__(self, name: str) -> np.ndarray:
        return self._make[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


def collate(
    features: Sequence[Mapping[str, np.ndarray] | None],
    like: Mapping[str, np.ndarray],
    ragged: Mapping[str, Ragged],
    padded: Mapping[str, int],
) -> dict[str, Any]:
    """Stacks the features of some rows; a None row (padding of the batch) becomes zeros.

    A feature is made for all rows before the next one is: photos are decoded one after another,
    while the decoder is in the core's cache, and each is freed once it stands in its row.

    Args:
      features: one mapping per row, perhaps `Lazy`: each feature is asked for once.
      like: features of any example: the names; types and fixed shapes where all rows are None.
      ragged: which features vary in length.
      padded: length of each ragged feature in this global batch.

    Returns:
      For a ragged feature {"ids": [rows, length], "mask": bool [rows, length]}, for others
      [rows, ...].

    Raises:
      ValueError: a feature that is longer than `padded`, or not of the fixed shape and type.
    """
    batch: dict[str, Any] = {}
    for name in like:
        values = (None if f is None else f[name] for f in features)
        if name not in ragged:
            batch[name] = _stack(name, values, len(features), like)
            continue
        values = list(values)
        first = next((v for v in values if v is not None), None)
        dtype = like[name].dtype if first is None else first.dtype
        ids = np.full((len(values), padded[name]), ragged[name].pad, dtype)
        mask = np.zeros(ids.shape, bool)
        for row, v in enumerate(values):
            if v is not None:
                ids[row, : len(v)] = v
                mask[row, : len(v)] = True
        batch[name] = {"ids": ids, "mask": mask}
    return batch


def _stack(
    name: str, values: Iterable[np.ndarray | None], rows: int, like: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Values below each other, each put into its row as soon as it is made; None: zeros."""
    stacked = None
    for row, value in enumerate(values):
        if value is None:
            continue
        if stacked is None:
            stacked = np.zeros((rows, *value.shape), value.dtype)
        if value.shape != stacked.shape[1:] or value.dtype != stacked.dtype:
            raise ValueError(
                f"feature {name!r} is {value.dtype} {value.shape} in one example and "
                f"{stacked.dtype} {stacked.shape[1:]} in another"
            )
        stacked[row] = value
    return np.zeros((rows, *like[name].shape), like[name].dtype) if stacked is None else stacked


def example_rng(seed: int, source: int, example: int, epoch: int) -> np.random.Generator:
    """Random draws of one example: the same wherever and whenever it is featurized."""
    key = np.random.SeedSequence([seed % (1 << 63), source, example, epoch])
    return np.random.Generator(np.random.Philox(key))
