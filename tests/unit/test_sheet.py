"""The contact sheet: the right pictures, at their places, framed where they are right."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.observe import sheet
from mmjax.observe.sheet import contact_sheet

GREEN = np.array([0x15, 0x80, 0x3D])
TEXT = slice(0, sheet._GAP + sheet._TEXT_WIDTH + sheet._GAP)


def answer(*, photo="p3", turns=((0, "Look at my dog."), (1, "Show me!")), labels=("Dog",), top=5):
    return {
        "id": "a/0",
        "turns": [{"speaker": s, "text": t} for s, t in turns],
        "asked": [0],
        "query": "",
        "photo": photo,
        "labels": list(labels),
        "above": 2,
        "score": 0.5,
        "top": [{"photo": f"p{i + 1}", "labels": ["Cat"], "score": 0.9} for i in range(top)],
    }


def shade(name: str) -> np.ndarray:
    """A photo of one colour, in a shape of its own."""
    i = int(name[1:])
    return np.full((30 + 10 * i, 200 - 20 * i, 3), (20 * i, 10, 200), np.uint8)


def tile(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """A candidate's square; column 0 is the right photo."""
    left = sheet._GAP + sheet._TEXT_WIDTH + 2 * sheet._GAP + column * (sheet._TILE + sheet._GAP)
    top = row * sheet._ROW + sheet._GAP + sheet._CAPTION
    return image[top : top + sheet._TILE, left : left + sheet._TILE]


def framed(image: np.ndarray, row: int, column: int) -> bool:
    left = sheet._GAP + sheet._TEXT_WIDTH + 2 * sheet._GAP + column * (sheet._TILE + sheet._GAP)
    middle = row * sheet._ROW + sheet._GAP + sheet._CAPTION + sheet._TILE // 2
    return bool((image[middle, left - 4] == GREEN).all())


def test_each_row_shows_the_right_photo_and_the_five_best_in_order():
    image = contact_sheet([answer(photo="p3"), answer(photo="p9")], pixels=shade)
    assert image.dtype == np.uint8 and image.shape == (2 * sheet._ROW, sheet._WIDTH, 3)
    for row, right in enumerate((3, 9)):
        for column, number in enumerate((right, 1, 2, 3, 4, 5)):
            assert (tile(image, row, column) == (20 * number, 10, 200)).all()


def test_the_right_photo_is_framed_wherever_it_is():
    image = contact_sheet([answer(photo="p3"), answer(photo="p9")], pixels=shade)
    assert [framed(image, 0, column) for column in range(6)] == [True, False, False, True] + 2 * [
        False
    ]
    assert [framed(image, 1, column) for column in range(6)] == [True] + 5 * [False]


def test_a_photo_without_pixels_shows_its_labels():
    image = contact_sheet([answer(), answer(labels=["Elephant", "Tree"])], pixels=lambda name: None)
    first, second = tile(image, 0, 0), tile(image, 1, 0)
    assert len(np.unique(first)) > 2 and (first != second).any()
    assert (tile(image, 0, 1) == tile(image, 0, 2)).all()


def test_the_last_lines_are_shown_and_earlier_ones_make_way():
    last = tuple((i % 2, f"line {i}") for i in range(20))
    many = contact_sheet([answer(turns=((0, "x"),) * 5000 + last)], pixels=shade)
    few = contact_sheet([answer(turns=((1, "y"),) * 2 + last)], pixels=shade)
    assert (many[:, TEXT] == few[:, TEXT]).all()
    assert (many[:, TEXT] != 255).any()


def test_the_last_turn_is_shown_after_one_that_fills_the_row():
    long = (0, "WIDE " * 80)
    without = contact_sheet([answer(turns=(long,))], pixels=shade)
    assert (contact_sheet([answer(turns=(long, (1, "Bye!")))], pixels=shade) != without).any()


def test_no_more_rows_than_asked_for_and_no_fewer_than_one():
    assert contact_sheet([answer()] * 9, pixels=shade, rows=4).shape[0] == 4 * sheet._ROW
    empty = contact_sheet([], pixels=shade)
    assert empty.shape == (sheet._ROW, sheet._WIDTH, 3) and (empty != 255).any()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 10_000,
        "word " * 2_000,
        "你好" * 300,
        "مرحبا 👩‍👩‍👧 \ud83d",
        "a\nb\tc\x00",
        "<b>&amp;",
    ],
)
def test_any_text_stays_in_its_column(text):
    image = contact_sheet([answer(turns=((0, text),), labels=[text], top=0)], pixels=lambda _: None)
    gap = image[:, sheet._GAP + sheet._TEXT_WIDTH + 2 : sheet._GAP + sheet._TEXT_WIDTH + 20]
    assert (gap == 255).all()
    right_of_the_photo = image[:, TEXT.stop + sheet._GAP + sheet._TILE + 10 :]
    assert (right_of_the_photo == 255).all()
