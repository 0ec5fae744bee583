"""One session of JDDC 2.1 as a dialogue.

{"id": "s1", "products": ["p1"],
 "turns": [{"role": "customer", "text": "这个怎么安装？"},
           {"role": "customer", "images": ["s1_0.jpg"]},
           {"role": "agent", "text": "亲，看一下说明书第3页哦"}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmjax.data.annotations import AGENT, CUSTOMER, Edu, Product, Relation
from mmjax.data.schema import Dialogue, Photo, Turn
from tfds_builders import checks
from tfds_builders.checks import MAX_TURNS, BadRecordError, Place, at_most, only, typed
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.jddc21 import inventory
from tfds_builders.jddc21.tables import Tables

ROLES = (CUSTOMER, AGENT)
_MAX_IMAGES, _MAX_PRODUCTS = 100, 1000


def parse(record: Any, place: Place, tables: Tables, seen: dict[str, str]) -> Dialogue:
    """One line of a file of sessions; `seen` holds the ids that were used before.

    The agent's turns with text are to be said, where the customer wrote or showed something before.
    A session of images alone is one in which nothing is to be said.

    Raises `BadRecordError` for unknown or missing fields, other types, sizes beyond the limits,
    a product that the knowledge base does not know, and annotations that do not fit the turns.
    """
    record = typed(record, dict, place)
    only(record, ("id", "products", "turns"), place)
    name = checks.field(record, "id", str, place)
    if name in seen:
        raise BadRecordError(f"{place / 'id'}: {name!r} was used before, in {seen[name]}")
    inside = place / "turns"
    listed = at_most(checks.field(record, "turns", list, place), MAX_TURNS, inside)
    turns = [_turn(turn, tables, inside / k) for k, turn in enumerate(listed)]
    if not turns:
        raise BadRecordError(f"{inside}: there is none")
    products = jsonl.texts(record, "products", place)
    known = at_most(list(products), _MAX_PRODUCTS, place / "products")
    turns = _rewritten(turns, tables.rewrites.get(name, {}))
    customer = [turn.speaker == 0 for turn in turns]
    dialogue = Dialogue(
        name,
        tuple(turns),
        roles=ROLES,
        targets=tuple(
            k for k, turn in enumerate(turns) if turn.speaker and turn.text and any(customer[:k])
        ),
        products=tuple(_product(p, tables, place / "products" / k) for k, p in enumerate(known)),
        summaries=tuple(tables.summaries.get(name, ())),
        **_discourse(turns, *tables.discourse.get(name, (None, place))),
    )
    seen[name] = place.record
    return dialogue


def _turn(turn: Any, tables: Tables, place: Place) -> Turn:
    turn = typed(turn, dict, place)
    only(turn, ("role", "text", "images"), place)
    role = checks.field(turn, "role", str, place)
    if role not in ROLES:
        raise BadRecordError(f"{place / 'role'}: it should be {' or '.join(ROLES)}, not {role!r}")
    text = checks.field(turn, "text", str, place).strip() if "text" in turn else ""
    images = at_most(list(jsonl.texts(turn, "images", place)), _MAX_IMAGES, place / "images")
    if not text and not images:
        raise BadRecordError(f"{place}: it has neither text nor images")
    return Turn(ROLES.index(role), text, tuple(_photo(image, tables) for image in images))


def _photo(image: str, tables: Tables) -> Photo:
    category = tables.categories.get(image)
    return Photo(image, () if category is None else (category,))


def _product(name: str, tables: Tables, place: Place) -> Product:
    if tables.products is None:
        return Product(name)
    if name not in tables.products:
        raise BadRecordError(f"{place}: product {name!r} is not in the knowledge base")
    return tables.products[name]


def _rewritten(turns: list[Turn], rewrites: Mapping[int, tuple[str | None, Place]]) -> list[Turn]:
    turns = list(turns)
    for k, (rewrite, place) in rewrites.items():
        if not 0 <= k < len(turns) or not turns[k].text or turns[k].speaker != 0:
            raise BadRecordError(f"{place / 'turn'}: turn {k} is no text of the customer's")
        turn, told = turns[k], () if rewrite is None else (rewrite,)
        turns[k] = Turn(turn.speaker, turn.text, turn.photos, rewrites=told)
    return turns


def _discourse(turns: list[Turn], record: Any, place: Place) -> dict[str, tuple[Any, ...]]:
    """A tree: every EDU but the first is attached to exactly one other (the paper's counts say)."""
    if record is None:
        return {}
    limit = 10 * MAX_TURNS
    edus = [
        _edu(edu, turns, place / "edus" / k)
        for k, edu in enumerate(
            at_most(checks.field(record, "edus", list, place), limit, place / "edus")
        )
    ]
    relations = [
        _relation(relation, len(edus), place / "relations" / k)
        for k, relation in enumerate(checks.field(record, "relations", list, place))
    ]
    parents = {relation.tail: relation.head for relation in relations}
    if len(parents) != len(relations) or parents.keys() != set(range(1, len(edus))):
        raise BadRecordError(
            f"{place / 'relations'}: every EDU but the first should be attached exactly once"
        )
    for start in parents:
        at, steps = start, 0
        while at and steps <= len(edus):
            at, steps = parents[at], steps + 1
        if at:
            raise BadRecordError(f"{place / 'relations'}: EDU {start} is attached in a circle")
    return {"edus": tuple(edus), "relations": tuple(relations)}


def _edu(edu: Any, turns: list[Turn], place: Place) -> Edu:
    edu = typed(edu, dict, place)
    only(edu, ("turn", "text", "image"), place)
    k = checks.field(edu, "turn", int, place)
    if not 0 <= k < len(turns):
        raise BadRecordError(f"{place / 'turn'}: there is no turn {k}")
    if "image" in edu:
        image = checks.field(edu, "image", str, place)
        names = [photo.id for photo in turns[k].photos]
        if image not in names:
            raise BadRecordError(f"{place / 'image'}: turn {k} does not show {image!r}")
        return Edu(k, photo=names.index(image))
    text = checks.field(edu, "text", str, place)
    if not text.strip() or text.strip() not in turns[k].text:
        raise BadRecordError(f"{place / 'text'}: it is no part of turn {k}")
    return Edu(k, text.strip())


def _relation(relation: Any, edus: int, place: Place) -> Relation:
    relation = typed(relation, dict, place)
    only(relation, ("head", "tail", "relation"), place)
    head, tail = (checks.field(relation, end, int, place) for end in ("head", "tail"))
    label = checks.field(relation, "relation", str, place)
    if not (0 <= head < edus and 0 <= tail < edus):
        raise BadRecordError(f"{place}: {head} and {tail} are not both of the {edus} EDUs")
    if label not in inventory.relations():
        raise BadRecordError(f"{place / 'relation'}: {label!r} is no relation of the inventory")
    return Relation(head, tail, label)
