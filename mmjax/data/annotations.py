"""What datasets say of their dialogues beyond turns and photos, and how it stands in a record.

A record holds only the parts that its dataset has (`PARTS`): most datasets have none, and an empty
column would be read with every record. Each part is a flat list that points into the turns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

# Names of speakers, where a dataset tells them apart by more than a number.
CUSTOMER, AGENT = "customer", "agent"
# Of a speaker who may be either: the release does not say.
UNMARKED = "unmarked"


@dataclass(frozen=True, slots=True)
class Product:
    """What a dialogue is about: an id of the dataset's knowledge base, and what it says there.

    `attributes` are (attribute, value) in the order of the knowledge base; one may have several
    values, each a pair of its own.
    """

    id: str
    kind: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Edu:
    """An elementary discourse unit: a part of what a turn says, or one of its photos.

    Attributes:
      turn: index into the dialogue's turns.
      text: empty for a photo.
      photo: index into the turn's photos, or None for text.
    """

    turn: int
    text: str = ""
    photo: int | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """The EDU `tail` is attached to the EDU `head` with a relation of this name."""

    head: int
    tail: int
    label: str


# part -> its fields in a record, each with the kinds of its columns; None: a plain list.
_FIELDS: Mapping[str, Mapping[str, Mapping[str | None, type]]] = {
    "roles": {"roles": {None: str}},
    "targets": {"targets": {None: int}},
    "references": {"references": {"turn": int, "text": str}},
    "rewrites": {"rewrites": {"turn": int, "possible": int, "text": str}},
    "products": {
        "products": {"id": str, "kind": str},
        "attributes": {"product": int, "name": str, "value": str},
    },
    "discourse": {
        "edus": {"turn": int, "text": str, "photo": int},
        "relations": {"head": int, "tail": int, "label": str},
    },
    "summaries": {"summaries": {None: str}},
}
PARTS = tuple(_FIELDS)


def to_columns(dialogue: Any) -> dict[str, dict[str, list[Any]]]:
    """Part -> field -> rows, of the parts of a `Dialogue` that say anything."""
    turns = list(enumerate(dialogue.turns))
    told = {
        "roles": {"roles": list(dialogue.roles)},
        "targets": {"targets": list(dialogue.targets or ())},
        "references": {
            "references": [{"turn": k, "text": text} for k, t in turns for text in t.references]
        },
        "rewrites": {
            "rewrites": [
                {"turn": k, "possible": possible, "text": text}
                for k, t in turns
                if t.rewrites is not None
                for possible, text in [(1, text) for text in t.rewrites] or [(0, "")]
            ]
        },
        "products": {
            "products": [{"id": p.id, "kind": p.kind} for p in dialogue.products],
            "attributes": [
                {"product": number, "name": name, "value": value}
                for number, product in enumerate(dialogue.products)
                for name, value in product.attributes
            ],
        },
        "discourse": {
            "edus": [
                {"turn": e.turn, "text": e.text, "photo": -1 if e.photo is None else e.photo}
                for e in dialogue.edus
            ],
            "relations": [
                {"head": r.head, "tail": r.tail, "label": r.label} for r in dialogue.relations
            ],
        },
        "summaries": {"summaries": list(dialogue.summaries)},
    }
    # No turn at all may be chosen, which says something too.
    chosen = {"targets"} if dialogue.targets is not None else set()
    return {part: rows for part, rows in told.items() if part in chosen or any(rows.values())}


def no_columns(part: str) -> dict[str, list[Any]]:
    """Field -> no rows, of a part that a dialogue says nothing of."""
    return {field: [] for field in _FIELDS[part]}


def of_turns(record: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Turn -> what `Turn` says of it beyond its text and photos, from a record as it is read."""
    found: dict[int, dict[str, Any]] = {}
    if "references" in record:
        for turn, text in _rows(record["references"], "turn", "text"):
            said = found.setdefault(int(turn), {})
            said["references"] = (*said.get("references", ()), text.decode())
    if "rewrites" in record:
        for turn, possible, text in _rows(record["rewrites"], "turn", "possible", "text"):
            said = found.setdefault(int(turn), {})
            more = (text.decode(),) if possible else ()
            said["rewrites"] = (*said.get("rewrites", ()), *more)
    return found


def of_dialogue(record: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What `Dialogue` says beyond its turns, by its field, from a record as it is read."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in {"roles", "summaries"} & record.keys():
        found[name] = tuple(text.decode() for text in record[name])
    if "targets" in record:
        found["targets"] = tuple(int(turn) for turn in record["targets"])
    if "products" in record:
        said: dict[int, list[tuple[str, str]]] = {}
        for product, name, value in _rows(record["attributes"], "product", "name", "value"):
            said.setdefault(int(product), []).append((name.decode(), value.decode()))
        found["products"] = tuple(
            Product(name.decode(), kind.decode(), tuple(said.get(number, ())))
            for number, (name, kind) in enumerate(_rows(record["products"], "id", "kind"))
        )
    if "edus" in record:
        found["edus"] = tuple(
            Edu(int(turn), text.decode(), None if photo < 0 else int(photo))
            for turn, text, photo in _rows(record["edus"], "turn", "text", "photo")
        )
        found["relations"] = tuple(
            Relation(int(head), int(tail), label.decode())
            for head, tail, label in _rows(record["relations"], "head", "tail", "label")
        )
    return found


def features(parts: Collection[str]) -> dict[str, Any]:
    """Field -> its TFDS feature, of these parts."""
    import numpy as np
    import tensorflow_datasets as tfds

    def feature(kind: type) -> Any:
        return tfds.features.Text() if kind is str else np.int32

    found = {}
    for part in parts:
        for field, columns in _FIELDS[part].items():
            kinds = {name: feature(kind) for name, kind in columns.items()}
            found[field] = tfds.features.Sequence(kinds.get(None) or kinds)
    return found


def _rows(columns: Mapping[str, Any], *names: str) -> zip:
    return zip(*(columns[name] for name in names), strict=True)
