"""Chooses the photos of a photo-sharing dataset from their boxes, and splits them.

    python -m mmjax.curation.photos --boxes=train-annotations-bbox.csv --out=DIR \
        --classes=class-descriptions-boxable.csv --hierarchy=bbox_labels_600_hierarchy.json
    python -m mmjax.curation.photos --boxes=images.jsonl --split=300,50,50 --out=DIR

Boxes are Open Images' (.csv), or COCO's as JSON lines (.jsonl). Prints the counts of categories
before and after; DIR gets `photos.jsonl` (each photo: kept or not, and why), `statistics.json` and,
with --split, `splits.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from mmjax.curation import open_images, photo_table
from mmjax.curation.bad_rows import BadRows
from mmjax.curation.filter_statistics import FilterStatistics
from mmjax.curation.photo_filter import MainObject, Verdict, judge
from mmjax.curation.shares import shares, table
from mmjax.curation.stratified import stratified_split
from mmjax.curation.whitelist import (
    Below,
    Entries,
    Whitelist,
    coco_entries,
    load_whitelist,
    open_images_entries,
)
from mmjax.data.schema import SPLITS, Photo
from mmjax.errors import UserError


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with one sentence for a bad input."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        whitelist = load_whitelist(given.whitelist)
        bad = BadRows(given.max_bad_records)
        photos, entries = _open(given, whitelist, bad)
        statistics = FilterStatistics(whitelist)
        main = MainObject(given.margin, given.least_side, given.small)
        kept = _write_verdicts(
            epath.Path(given.out),
            (judge(photo, entries, whitelist, main) for photo in photos),
            statistics,
            remember=given.split is not None,
        )
        _check_known(statistics, given.boxes)
        print(statistics.as_text())
        report = statistics.as_json() | {"bad_records": bad.count, "first_bad_record": bad.first}
        if bad.count:
            print(f"\nbad records passed over: {bad.count:,}; the first: {bad.first}")
        _write(epath.Path(given.out) / "statistics.json", json.dumps(report, indent=1))
        if given.split:
            print(f"\n{_write_splits(given, kept, whitelist)}")
        print(f"\n{statistics.kept:,} photos are kept: {given.out}/photos.jsonl")
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    default = MainObject()
    parser = argparse.ArgumentParser(
        prog="mmjax.curation.photos", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--boxes", required=True, help="Open Images' boxes (.csv), or photos in JSON lines")
    add("--out", required=True, help="folder for what is found")
    add("--classes", help="for .csv: names of the classes, class-descriptions-boxable.csv")
    add("--hierarchy", help="for .csv: Open Images' bbox_labels_600_hierarchy.json")
    add(
        "--below",
        choices=typing.get_args(Below),
        default="animal",
        help="which entries also stand for the classes below them in the hierarchy",
    )
    add("--whitelist", help="JSON file {group: [label, ...]} in place of PhotoChat's")
    add("--margin", type=_fraction, default=default.margin, help="people: nearest to a border")
    add("--least_side", type=_fraction, default=default.least_side, help="people: least side")
    add("--small", choices=("and", "or"), default=default.small, help="width and, or, height")
    add("--split", type=_sizes, help="sizes of train, dev and test: 300,50,50")
    add("--seed", type=int, default=0, help="of the split")
    add("--max_bad_records", type=int, default=0, help="rows that may be passed over")
    return parser


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} should be from 0 to 1")
    return value


def _sizes(text: str) -> dict[str, int]:
    sizes = [int(part) for part in text.split(",")]
    if len(sizes) != len(SPLITS) or min(sizes) < 0 or not sum(sizes):
        raise argparse.ArgumentTypeError(f"{text!r} should be three sizes, such as 300,50,50")
    return dict(zip(SPLITS, sizes, strict=True))


def _open(given: Any, whitelist: Whitelist, bad: BadRows) -> tuple[Iterator[Photo], Entries]:
    """Photos, and what their labels count as."""
    if given.boxes.endswith(".jsonl"):
        return photo_table.read_table(given.boxes, bad), coco_entries(whitelist)
    if not given.boxes.endswith(".csv"):
        raise UserError(f"--boxes={given.boxes} should be a .csv or a .jsonl file.")
    if not given.classes:
        raise UserError(
            "--classes=class-descriptions-boxable.csv is missing: the boxes of Open Images name "
            "their classes by numbers."
        )
    names = open_images.read_class_names(given.classes)
    if given.hierarchy:
        above: Mapping[str, frozenset[str]] = open_images.read_hierarchy(given.hierarchy, names)
    elif given.below == "none":
        above = dict.fromkeys(names.values(), frozenset())
    else:
        raise UserError(
            f"--hierarchy=bbox_labels_600_hierarchy.json is missing, which --below={given.below} "
            'needs to know a dog for an animal; with --below=none only "Animal" itself counts.'
        )
    entries = open_images_entries(whitelist, above, given.below)
    return open_images.read_boxes(given.boxes, names, bad), entries


def _write_verdicts(
    folder: epath.Path,
    verdicts: Iterator[Verdict],
    statistics: FilterStatistics,
    *,
    remember: bool,
) -> list[Verdict]:
    """Writes a line per photo as they come; returns those that are kept, where they are needed."""
    kept, path = [], folder / "photos.jsonl"
    unfinished = folder / "photos.jsonl.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w") as file:
            for verdict in verdicts:
                statistics.add(verdict)
                line = {"photo": verdict.photo, "kept": verdict.kept}
                if remember and verdict.kept:
                    kept.append(verdict)
                if verdict.kept:
                    line["groups"] = statistics.whitelist.groups_in(verdict.entries)
                    line["labels"] = verdict.entries
                else:
                    line["reason"] = verdict.reason
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error
    return kept


def _check_known(statistics: FilterStatistics, boxes: str) -> None:
    if statistics.unknown and not statistics.before:
        raise UserError(
            f"{boxes}: none of its labels is known ({next(iter(statistics.unknown))!r} is the "
            "first): take the names of classes that belong to it."
        )


def _write_splits(given: Any, kept: Sequence[Verdict], whitelist: Whitelist) -> str:
    """Writes the ids of each split; returns the table of their proportions."""
    groups = [whitelist.groups_in(verdict.entries) for verdict in kept]
    dealt = stratified_split(groups, given.split, seed=given.seed)
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    own: dict[str, list[tuple[str, ...]]] = {split: [] for split in SPLITS}
    for verdict, found, split in zip(kept, groups, dealt, strict=True):
        if split is not None:
            ids[split].append(verdict.photo)
            own[split].append(found)
    _write(epath.Path(given.out) / "splits.json", json.dumps(ids, indent=1))
    return table(shares({s: o for s, o in own.items() if o}, list(whitelist.groups)))


def _write(path: epath.Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error


if __name__ == "__main__":
    sys.exit(run())
