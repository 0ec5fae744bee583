"""Which split a line belongs to, where the user has not decided: by photo, never by line.

Photos that meet in one dialogue stay together, so what is compared or counted in one split is
never seen in another. The order of lines plays no part, and without folds a photo keeps its split
when others are added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmjax.data.schema import SPLITS
from mmjax.errors import UserError
from tfds_builders.carving import drawn, percentile

_MAX_FOLDS = 100


@dataclass(frozen=True)
class Shares:
    """Percent of the photos in train, dev and test; by a hash of the photo."""

    percent: tuple[int, int, int] = (80, 10, 10)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, share in zip(SPLITS, self.percent, strict=True) if share)

    def of(self, units: Sequence[str]) -> dict[str, str]:
        """Unit -> split."""
        train, dev, _ = self.percent
        ends = (train, train + dev, 100)

        def split(unit: str) -> str:
            place = percentile(unit)
            return next(name for name, end in zip(SPLITS, ends, strict=True) if place < end)

        chosen = {unit: split(unit) for unit in units}
        for name in self.splits:
            if name not in chosen.values():
                folds = ", or use folds (photo_folder/fold-1-of-3)" if len(units) > 2 else ""
                raise UserError(
                    f"split by chance, none of the photos (there: {len(units)}) is left for "
                    f"{name!r}; add photos, write train.jsonl, dev.jsonl and test.jsonl "
                    f"yourself{folds}."
                )
        return chosen


@dataclass(frozen=True)
class Fold:
    """Cross-validation: fold k of n is test, the next one dev, the others train.

    Folds have equal numbers of photos, or one more.
    """

    k: int
    n: int

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def of(self, units: Sequence[str]) -> dict[str, str]:
        """Unit -> split."""
        if len(units) < self.n:
            fewer = f", or use at most {len(units)} folds" if len(units) > 2 else ""
            raise UserError(
                f"for {self.n} folds there are too few photos ({len(units)}); add some{fewer}."
            )
        ranked = sorted(units, key=lambda unit: (drawn(unit), unit))
        test, dev = self.k - 1, self.k % self.n

        def split(rank: int) -> str:
            return {test: "test", dev: "dev"}.get(rank * self.n // len(ranked), "train")

        return {unit: split(rank) for rank, unit in enumerate(ranked)}


def parse_config(config: str) -> Shares | Fold | None:
    """ "", "fold-2-of-5" or "split-70-15-15"; None for anything else."""
    if not config:
        return Shares()
    if match := re.fullmatch(r"fold-(\d{1,3})-of-(\d{1,3})", config, re.ASCII):
        k, n = map(int, match.groups())
        return Fold(k, n) if 1 <= k <= n and 3 <= n <= _MAX_FOLDS else None
    if match := re.fullmatch(r"split-(\d{1,2})-(\d{1,2})-(\d{1,2})", config, re.ASCII):
        percent = tuple(map(int, match.groups()))
        return Shares(percent) if sum(percent) == 100 and percent[0] else None
    return None


class Units:
    """Sets of photos that must stay together, named by the smallest id in each."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, ids: Iterable[str]) -> None:
        first, *others = (self.of(name) for name in ids)
        for other in others:
            first, other = sorted((self.of(first), self.of(other)))
            self._parents[other] = first

    def of(self, name: str) -> str:
        """The unit of an id."""
        parents = self._parents
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = name = parents[parents[name]]
        return name

    def all(self) -> list[str]:
        return [name for name, parent in self._parents.items() if name == parent]
