"""What stands beside the sessions of JDDC 2.1: products, categories of images, annotations.

A line that cannot be used is kept as a BadRecordError under the session, product or image that it
is about, and raised when somebody asks for that; a line about nothing stops the preparation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmjax.data.annotations import Product
from mmjax.data.schema import SPLITS
from mmjax.errors import UserError
from tfds_builders import checks
from tfds_builders.checks import BadRecordError, Place, only, parse_json, typed
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.jddc21 import archive, inventory
from tfds_builders.text_lines import text_lines


@dataclass
class Tables:
    """Attributes:
    products: id -> what is known of it; None where there is no knowledge base.
    categories: image -> its category.
    rewrites: session -> turn -> (rewrite or None, place).
    discourse: session -> (edus and relations as they stand in the file, place).
    summaries: session -> its summaries.
    splits: session -> split, of the annotated ones.
    """

    products: dict[str, Product] | None = None
    categories: dict[str, str] = field(default_factory=dict)
    rewrites: dict[str, dict[int, tuple[str | None, Place]]] = field(default_factory=dict)
    discourse: dict[str, tuple[dict[str, Any], Place]] = field(default_factory=dict)
    summaries: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)


def read_tables(files: archive.Files) -> Tables:
    """All tables that are there. Raises UserError where a line cannot be used."""
    tables = Tables(_products(files))
    try:
        for place, (image, category) in _columns(files, archive.CATEGORIES, 2):
            if category not in inventory.image_categories():
                raise BadRecordError(f"{place}: {category!r} is no category of the inventory")
            _once(tables.categories, image, category, place)
        for place, (session, split) in _columns(files, archive.ANNOTATED, 2):
            if split not in SPLITS:
                raise BadRecordError(f"{place}: {split!r} is no split; use {', '.join(SPLITS)}")
            _once(tables.splits, session, split, place)
        for place, row in _objects(files, archive.REWRITES, ("session", "turn", "rewrite")):
            rewrite = row.get("rewrite", ...)
            if rewrite is not None:
                rewrite = checks.field(row, "rewrite", str, place).strip()
                if not rewrite:
                    raise BadRecordError(
                        f"{place / 'rewrite'}: it is empty; null says that there is none"
                    )
            of_turn = tables.rewrites.setdefault(checks.field(row, "session", str, place), {})
            _once(of_turn, checks.field(row, "turn", int, place), (rewrite, place), place)
        for place, row in _objects(files, archive.DISCOURSE, ("session", "edus", "relations")):
            _once(tables.discourse, checks.field(row, "session", str, place), (row, place), place)
        for place, row in _objects(files, archive.SUMMARIES, ("session", "summary")):
            summary = checks.field(row, "summary", str, place).strip()
            if not summary:
                raise BadRecordError(f"{place / 'summary'}: it is empty")
            session = checks.field(row, "session", str, place)
            tables.summaries.setdefault(session, []).append(summary)
    except BadRecordError as bad:
        raise UserError(f"{bad}; correct it.") from bad
    return tables


def _products(files: archive.Files) -> dict[str, Product] | None:
    if archive.PRODUCTS not in files and archive.TRIPLES not in files:
        return None
    kinds: dict[str, str] = {}
    attributes: dict[str, list[tuple[str, str]]] = {}
    try:
        for place, (product, kind) in _columns(files, archive.PRODUCTS, 2):
            _once(kinds, product, kind, place)
        for _, (product, name, value) in _columns(files, archive.TRIPLES, 3):
            attributes.setdefault(product, []).append((name, value))
    except BadRecordError as bad:
        raise UserError(f"{bad}; correct it.") from bad
    return {
        name: Product(name, kinds.get(name, ""), tuple(attributes.get(name, ())))
        for name in {**kinds, **attributes}
    }


def _once(table: dict[Any, Any], key: Any, value: Any, place: Place) -> None:
    if key in table:
        raise BadRecordError(f"{place}: {key!r} has a line before; keep one of them")
    table[key] = value


def _columns(files: archive.Files, name: str, number: int) -> Iterator[tuple[Place, list[str]]]:
    if name not in files:
        return
    for place, line in text_lines(*files[name]):
        if isinstance(line, BadRecordError):
            raise line
        if not line.strip():
            continue
        fields = [text.strip() for text in line.split("\t")]
        if len(fields) != number or not all(fields):
            raise BadRecordError(
                f"{place}: there should be {number} columns with text, separated by tabs"
            )
        yield place, fields


def _objects(
    files: archive.Files, name: str, known: tuple[str, ...]
) -> Iterator[tuple[Place, dict[str, Any]]]:
    if name not in files:
        return
    for _, place, line in jsonl.lines(*files[name]):
        row = typed(parse_json(line, place.record), dict, place)
        only(row, known, place)
        yield place, row
