"""The schema: a dialogue survives its flat record, whatever it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.data.annotations import PARTS, Edu, Product, Relation
from mmjax.data.photos import BytesPhoto
from mmjax.data.schema import Box, Dialogue, Photo, Turn, from_record, to_record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SHARE = st.floats(0, 1, width=32)
BOX = st.builds(Box, TEXT, SHARE, SHARE, SHARE, SHARE)
LABELS, BOXES = st.lists(TEXT, max_size=3).map(tuple), st.lists(BOX, max_size=2).map(tuple)
PHOTO = st.builds(Photo, TEXT, LABELS, TEXT, BOXES)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
TURN = st.builds(
    Turn,
    st.integers(0, 9),
    TEXT,
    st.lists(PHOTO, max_size=3).map(tuple),
    references=TEXTS,
    rewrites=st.none() | TEXTS,
)
DIALOGUE = st.builds(Dialogue, TEXT, st.lists(TURN, max_size=6).map(tuple))
NUMBER = st.integers(0, 9)
ATTRIBUTES = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)
ANNOTATED = st.builds(
    Dialogue,
    TEXT,
    st.lists(TURN, max_size=3).map(tuple),
    roles=TEXTS,
    targets=st.lists(NUMBER, max_size=3).map(tuple),
    products=st.lists(st.builds(Product, TEXT, TEXT, ATTRIBUTES), max_size=2).map(tuple),
    edus=st.lists(st.builds(Edu, NUMBER, TEXT, st.none() | NUMBER), max_size=2).map(tuple),
    relations=st.lists(st.builds(Relation, NUMBER, NUMBER, TEXT), max_size=2).map(tuple),
    summaries=TEXTS,
)


def as_read(record: dict[str, Any]) -> dict[str, Any]:
    """The record in the form in which TFDS gives it back: a column per field, texts as bytes."""
    turns, photos, boxes = record["turns"], record["photos"], record["boxes"]
    return {
        "id": record["id"].encode(),
        "turns": {
            "speaker": [np.int32(turn["speaker"]) for turn in turns],
            "text": [turn["text"].encode() for turn in turns],
        },
        "photos": {
            "turn": [np.int32(photo["turn"]) for photo in photos],
            "id": [photo["id"].encode() for photo in photos],
            "url": [photo["url"].encode() for photo in photos],
            "labels": [
                np.array([label.encode() for label in photo["labels"]], dtype=object)
                for photo in photos
            ],
        },
        "boxes": {
            "photo": [np.int32(box["photo"]) for box in boxes],
            "label": [box["label"].encode() for box in boxes],
            "corners": [np.array(box["corners"], np.float32) for box in boxes],
        },
        **{
            name: columns(record[name], name)
            for name in record.keys() - {"id", "turns", "photos", "boxes"}
        },
    }


COLUMNS = {
    "references": ("turn", "text"),
    "rewrites": ("turn", "possible", "text"),
    "products": ("id", "kind"),
    "attributes": ("product", "name", "value"),
    "edus": ("turn", "text", "photo"),
    "relations": ("head", "tail", "label"),
}


def columns(rows: list[Any], name: str) -> Any:
    def value(x: Any) -> Any:
        return x.encode() if isinstance(x, str) else np.int32(x)

    if name in COLUMNS:
        return {column: [value(row[column]) for row in rows] for column in COLUMNS[name]}
    return [value(row) for row in rows]


@given(DIALOGUE)
def test_a_dialogue_comes_back_from_its_record(dialogue: Dialogue):
    assert from_record(as_read(to_record(dialogue))) == dialogue


@given(ANNOTATED)
def test_what_a_dataset_says_beyond_turns_comes_back_too(dialogue: Dialogue):
    assert from_record(as_read(to_record(dialogue))) == dialogue
    assert from_record(as_read(to_record(dialogue, PARTS))) == dialogue


def test_a_record_without_annotations_has_no_columns_for_them():
    record = to_record(Dialogue("d", (Turn(0, "x"),)))
    assert record.keys() == {"id", "turns", "photos", "boxes"}


def test_a_turn_that_cannot_be_rewritten_is_not_one_that_nobody_looked_at():
    turns = (Turn(0, "a", rewrites=()), Turn(0, "b"), Turn(0, "c", rewrites=("d", "e")))
    assert from_record(as_read(to_record(Dialogue("d", turns)))).turns == turns


def test_an_annotation_that_would_be_lost_is_refused():
    with pytest.raises(ValueError, match=r"'d' has \['summaries'\]"):
        to_record(Dialogue("d", (), summaries=("s",)), ("roles",))


def test_photos_return_to_the_turn_that_shared_them():
    first, second, third = Photo("a", ("Dog",)), Photo("b"), Photo("c", ("Cat", "Tree"), "u")
    turns = (Turn(0, "x"), Turn(1, "", (first, second)), Turn(1, "y"), Turn(0, "z", (third,)))
    record = to_record(Dialogue("d", turns))
    assert [photo["turn"] for photo in record["photos"]] == [1, 1, 3]
    assert from_record(as_read(record)).turns == turns


def test_speakers_are_plain_integers():
    turn = from_record(as_read(to_record(Dialogue("d", (Turn(3, "x"),))))).turns[0]
    assert type(turn.speaker) is int


def test_pixels_are_where_they_can_be_had_and_do_not_make_another_photo():
    had, missing = Photo("a"), Photo("b")
    record = as_read(to_record(Dialogue("d", (Turn(0, "", (had, missing)),))))
    file = BytesPhoto(b"pixels")
    found = from_record(record, {"a": file}).turns[0].photos
    assert (found[0].file, found[1].file) == (file, None)
    assert found == (had, missing)
