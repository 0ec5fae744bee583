"""How far the proportions of categories agree between the splits of a dataset.

    python -m mmjax.curation.shares --dataset=photochat

A photo may be in several categories of PhotoChat's list, so that shares do not add up to 100 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmjax.curation.stratified import stratified_split
from mmjax.curation.whitelist import Whitelist, load_whitelist
from mmjax.data.schema import SPLITS, Dialogue, Photo
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError


@dataclass(frozen=True)
class Shares:
    """Attributes:
    sizes: split -> items.
    percent: category -> split -> share of the split's items that are in it, in percent.
    overall: category -> share of all items, in percent.
    """

    sizes: Mapping[str, int]
    percent: Mapping[str, Mapping[str, float]]
    overall: Mapping[str, float]

    @property
    def largest_deviation(self) -> tuple[float, str, str]:
        """(percentage points, category, split) of the share that is furthest from the overall."""
        return max(
            (abs(value - self.overall[category]), category, split)
            for category, row in self.percent.items()
            for split, value in row.items()
        )


def shares(splits: Mapping[str, Sequence[Collection[str]]], categories: Sequence[str]) -> Shares:
    """Of any items: split -> the categories of each. Raises UserError for a split without items."""
    for split, items in splits.items():
        if not items:
            raise UserError(f"Split {split!r} has no photo: its proportions cannot be told.")
    every = [own for items in splits.values() for own in items]
    return Shares(
        {split: len(items) for split, items in splits.items()},
        {c: {split: _percent(items, c) for split, items in splits.items()} for c in categories},
        {c: _percent(every, c) for c in categories},
    )


def table(found: Shares) -> str:
    """Aligned text: a row per category, a column per split, and the largest deviation."""
    splits = list(found.sizes)
    rows = [["%", *splits, "all"]]
    rows += [
        [c, *(f"{row[split]:.2f}" for split in splits), f"{found.overall[c]:.2f}"]
        for c, row in found.percent.items()
    ]
    rows.append(
        ["items", *(f"{n:,}" for n in found.sizes.values()), f"{sum(found.sizes.values()):,}"]
    )
    first = max(len(row[0]) for row in rows)
    lines = [row[0].ljust(first) + "".join(cell.rjust(10) for cell in row[1:]) for row in rows]
    points, category, split = found.largest_deviation
    lines.append(f"largest deviation: {points:.2f} points, {category} in {split}")
    return "\n".join(lines)


def shared_photos(dialogues: Iterable[Dialogue]) -> list[Photo]:
    """The first shared photo of each dialogue that has one."""
    firsts = (next((p for t in dialogue.turns for p in t.photos), None) for dialogue in dialogues)
    return [photo for photo in firsts if photo is not None]


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with one sentence for a bad input."""
    parser = argparse.ArgumentParser(
        prog="mmjax.curation.shares", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", default="photochat", help="as in --config.data.dataset")
    parser.add_argument("--data_dir", default="data", help="where prepared datasets are kept")
    parser.add_argument("--manual_dir", help="the folder with the dataset's original files")
    parser.add_argument("--seed", type=int, default=0, help="of the split that is compared with")
    given = parser.parse_args(argv)
    try:
        whitelist = load_whitelist()
        photos = {
            split: shared_photos(
                open_dataset(
                    given.dataset, split, data_dir=given.data_dir, manual_dir=given.manual_dir
                )
            )
            for split in SPLITS
        }
        print(f"{given.dataset}, as it is split\n\n{table(_shares(photos, whitelist))}\n")
        again = _split_again(photos, whitelist, given.seed)
        print(f"split again, stratified\n\n{table(_shares(again, whitelist))}")
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2
    return 0


def _shares(photos: Mapping[str, Sequence[Photo]], whitelist: Whitelist) -> Shares:
    own = {split: [whitelist.groups_in(p.labels) for p in found] for split, found in photos.items()}
    return shares(own, list(whitelist.groups))


def _split_again(
    photos: Mapping[str, Sequence[Photo]], whitelist: Whitelist, seed: int
) -> dict[str, list[Photo]]:
    """The same photos in stratified splits of the same sizes."""
    every = [photo for found in photos.values() for photo in found]
    dealt = stratified_split(
        [whitelist.groups_in(photo.labels) for photo in every],
        {split: len(found) for split, found in photos.items()},
        photos=[photo.id for photo in every],
        seed=seed,
    )
    return {
        split: [p for p, own in zip(every, dealt, strict=True) if own == split] for split in photos
    }


def _percent(items: Sequence[Collection[str]], category: str) -> float:
    return 100.0 * sum(category in own for own in items) / len(items)


if __name__ == "__main__":
    sys.exit(run())
