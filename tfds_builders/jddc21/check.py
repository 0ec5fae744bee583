"""Says what is missing or wrong in an unpacked JDDC 2.1, one sentence each.

    python -m tfds_builders.jddc21.check DIR [--images] [--published]

The exit code is 0 where nothing is, else 2.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mmjax.data.images import BadImageError, check_image
from mmjax.data.schema import SPLITS, Dialogue
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.jddc21 import archive, inventory
from tfds_builders.jddc21.jddc21_dataset_builder import photo_origin, sessions, shown
from tfds_builders.jddc21.tables import Tables, read_tables
from tfds_builders.photo_folder.files import PhotoFiles

_SHOWN = 20  # sentences of one kind


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="tfds_builders.jddc21.check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", help="the unpacked corpus")
    parser.add_argument("--images", action="store_true", help="open every image (slow)")
    parser.add_argument("--published", action="store_true", help="compare counts with the paper")
    args = parser.parse_args(argv)
    try:
        found = list(problems(archive.folder_of(args.folder), args.images, args.published))
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2
    for sentence in found:
        print(sentence)
    number = f"{len(found)} things are" if found[1:] else "one thing is" if found else "nothing is"
    print(f"{args.folder}: {number} missing or wrong.")
    return 2 if found else 0


def problems(folder: Path, images: bool = False, published: bool = False) -> Iterator[str]:
    """One sentence for each thing that is missing or wrong.

    Raises UserError for a table that cannot be read at all.
    """
    files = archive.files_of(folder)
    for name, use in archive.USES.items():
        if name not in files:
            yield f"{name} is not there: without it there are no {use.removeprefix('the ')}."
    tables = read_tables(files)
    by_split = {
        split: list(sessions(files, tables, split, {}))
        for split, name in archive.SESSIONS.items()
        if name in files
    }
    found = [talk for rows in by_split.values() for _, talk in rows]
    yield from _few([f"{talk}." for talk in found if isinstance(talk, BadRecordError)])
    dialogues = [talk for talk in found if isinstance(talk, Dialogue)]
    yield from _twice(by_split)
    yield from _images(folder, files, images)
    yield from _unused(files, tables, dialogues)
    if published:
        yield from _counts(tables, dialogues)


def _twice(by_split: dict[str, list]) -> Iterator[str]:
    ids = {
        split: {t.id for _, t in rows if isinstance(t, Dialogue)}
        for split, rows in by_split.items()
    }
    for one, other in itertools.combinations(by_split, 2):
        if both := sorted(ids[one] & ids[other]):
            yield f"{_some(both, 'session')} in {one} and in {other}: leave one of them out."


def _images(folder: Path, files: archive.Files, decode: bool) -> Iterator[str]:
    if not (folder / archive.IMAGES).is_dir():
        yield f"{archive.IMAGES} is not there: without it there are no pixels."
        return
    there, missing = PhotoFiles(folder), []
    for name, place in shown(files).items():
        try:
            there.find(f"{archive.IMAGES}/{name}", place)
        except BadRecordError:
            missing.append(name)
    if missing:
        yield f"{_some(missing, 'image')} shown in a session and not in {archive.IMAGES}."
    if decode:
        yield from _few([f"{bad}." for bad in _broken(folder, missing)])


def _broken(folder: Path, missing: Collection[str]) -> Iterator[str]:
    for name, data in photo_origin(folder).read(None):
        try:
            if isinstance(data, BadRecordError):
                raise data
            check_image(data)
        except (BadRecordError, BadImageError) as bad:
            if name not in missing:
                yield f"{archive.IMAGES}/{name}: {bad}"


def _unused(files: archive.Files, tables: Tables, dialogues: list[Dialogue]) -> Iterator[str]:
    """Annotations of what is not there."""
    known = {dialogue.id for dialogue in dialogues}
    about = {
        archive.REWRITES: tables.rewrites,
        archive.DISCOURSE: tables.discourse,
        archive.SUMMARIES: tables.summaries,
        archive.ANNOTATED: tables.splits,
    }
    for name, named in about.items():
        if lost := sorted(named.keys() - known):
            yield f"{_some(lost, 'session')} named in {name} and in no file of usable sessions."
    images = {photo.id for d in dialogues for turn in d.turns for photo in turn.photos}
    if lost := sorted(tables.categories.keys() - images):
        yield f"{_some(lost, 'image')} named in {archive.CATEGORIES} and shown in no session."


def _counts(tables: Tables, dialogues: list[Dialogue]) -> Iterator[str]:
    products = tables.products or {}
    attributes = [name for product in products.values() for name, _ in product.attributes]
    counts = {
        "dialogues": len(dialogues),
        "turns": sum(len(d.turns) for d in dialogues),
        "images": sum(len(turn.photos) for d in dialogues for turn in d.turns),
        "labelled images": len(tables.categories),
        "products": len(products),
        "kinds of products": len({p.kind for p in products.values() if p.kind}),
        "names of attributes": len(set(attributes)),
        "attributes": len(attributes),
        "sessions with discourse": sum(bool(d.edus) for d in dialogues),
        "edus": sum(len(d.edus) for d in dialogues),
        "relations": sum(len(d.relations) for d in dialogues),
        "summaries": sum(len(d.summaries) for d in dialogues),
    }
    for name, there in inventory.published().items():
        if counts[name] != there:
            yield f"There are {counts[name]:,} {name}, and the paper has {there:,}."
    labels = Counter(r.label for d in dialogues for r in d.relations)
    for label, numbers in inventory.relations().items():
        for split, there in zip(SPLITS, numbers, strict=True):
            ids = {name for name, at in tables.splits.items() if at == split}
            here = sum(r.label == label for d in dialogues if d.id in ids for r in d.relations)
            if labels and here != there:
                yield f"{label} is there {here:,} times in {split}, and {there:,} in the paper."


def _few(sentences: Sequence[str]) -> Iterator[str]:
    yield from sentences[:_SHOWN]
    if len(sentences) > _SHOWN:
        yield f"{len(sentences) - _SHOWN:,} more of the same kind are not listed."


def _some(names: Sequence[str], what: str) -> str:
    one = len(names) == 1
    return f"{len(names):,} {what}{'' if one else 's'} ({names[0]}{'' if one else ' first'}) " + (
        "is" if one else "are"
    )


if __name__ == "__main__":
    sys.exit(run())
