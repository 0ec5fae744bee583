"""The photo filter keeps what the paper's rules keep: to the last decimal, and on real boxes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.curation import photo_filter, photos
from mmjax.curation.photo_filter import MainObject, judge
from mmjax.curation.whitelist import coco_entries, load_whitelist
from mmjax.data.schema import Box, Photo

WHITELIST = load_whitelist()
ENTRIES = coco_entries(WHITELIST)
MILLION = 10**6

# Corners in millionths, as Open Images writes them; near the borders of the rules most of the time.
near = st.sampled_from([0, 1, 5, 9, 10]).flatmap(
    lambda tenth: st.integers(-2, 2).map(
        lambda d: min(MILLION, max(0, tenth * MILLION // 10 + d * 50_000))
    )
)
corner = st.one_of(st.integers(0, MILLION), near)
span = st.tuples(corner, corner).map(sorted)


def box(x, y, label="person"):
    """A box by its corners in millionths, through the decimals of a file."""
    (x0, x1), (y0, y1) = ([float(f"0.{v:06d}") if v < MILLION else 1.0 for v in s] for s in (x, y))
    return Box(label, x0, y0, x1 - x0, y1 - y0)


def is_main(x, y, small):
    """The rules of the paper's footnotes in whole millionths: no rounding at all."""
    near_border = any(sum(s) <= 2 * 100_000 or sum(s) >= 2 * 900_000 for s in (x, y))
    short = [s[1] - s[0] < 300_000 for s in (x, y)]
    return not near_border and not (all(short) if small == "and" else any(short))


@settings(max_examples=300, deadline=None)
@given(x=span, y=span, small=st.sampled_from(["and", "or"]))
def test_a_person_counts_exactly_where_the_rules_say_so(x, y, small):
    main = MainObject(small=small)
    verdict = judge(Photo("p", boxes=(box(x, y),)), ENTRIES, WHITELIST, main)
    assert verdict.kept == is_main(x, y, small)
    assert verdict.shown == ("Human body",)
    assert verdict.entries == (("Human body",) if verdict.kept else ())


@pytest.mark.parametrize(
    ("x", "kept"),
    [
        ((0, 200_000), False),  # centre 0.1 is within
        ((0, 200_002), True),
        ((50_000, 150_000), False),
        ((850_000, 950_000), False),  # 0.9, where binary rounding falls to the other side
        ((849_998, 949_998), True),
    ],
)
def test_a_centre_on_the_line_is_marginal(x, kept):
    one = Photo("p", boxes=(box(x, (100_000, 900_000)),))
    assert judge(one, ENTRIES, WHITELIST, MainObject()).kept == kept


def test_a_side_of_three_tenths_is_not_small():
    for x in ((400_000, 700_000), (250_000, 550_000), (100_000, 400_000)):
        one = Photo("p", boxes=(box(x, x),))
        assert judge(one, ENTRIES, WHITELIST, MainObject(small="or")).kept
        one = Photo("p", boxes=(box((x[0], x[1] - 1), (100_000, 900_000)),))
        assert not judge(one, ENTRIES, WHITELIST, MainObject(small="or")).kept
        assert judge(one, ENTRIES, WHITELIST, MainObject(small="and")).kept


def test_only_people_must_be_a_main_object():
    corner_of_the_photo = ((0, 50_000), (0, 50_000))
    for label in ("dog", "pizza", "vase"):
        one = Photo("p", boxes=(box(*corner_of_the_photo, label),))
        assert judge(one, ENTRIES, WHITELIST, MainObject()).kept


MAIN = box((200_000, 800_000), (200_000, 800_000))
BORDER = box((0, 100_000), (0, 900_000))
SMALL = box((450_000, 550_000), (450_000, 550_000))
DOG = box((0, 10_000), (0, 10_000), "dog")
CAR = box((0, MILLION), (0, MILLION), "car")


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ((), photo_filter.NO_BOX),
        ((CAR,), photo_filter.NOT_LISTED),
        ((BORDER, CAR), photo_filter.AT_BORDER),
        ((SMALL,), photo_filter.TOO_SMALL),
        ((SMALL, BORDER), photo_filter.BORDER_OR_SMALL),
        ((SMALL, BORDER, MAIN), ""),
        ((SMALL, DOG), ""),
    ],
)
def test_a_photo_that_is_dropped_has_its_reason(boxes, reason):
    assert judge(Photo("p", boxes=boxes), ENTRIES, WHITELIST, MainObject()).reason == reason


def test_a_person_that_is_no_main_object_is_shown_but_does_not_count():
    verdict = judge(Photo("p", boxes=(SMALL, DOG)), ENTRIES, WHITELIST, MainObject())
    assert verdict.shown == ("Human body", "Animal") and verdict.entries == ("Animal",)


def test_labels_that_are_not_known_are_told():
    other = Box("Zeppelin", 0, 0, 1, 1)
    verdict = judge(Photo("p", boxes=(other, other, CAR)), ENTRIES, WHITELIST, MainObject())
    assert verdict.unknown == ("Zeppelin",) and verdict.reason == photo_filter.NOT_LISTED


@pytest.mark.parametrize("small", ["and", "or"])
def test_on_real_photos_the_command_keeps_what_their_pixels_say(shared_data, tmp_path, small):
    table = shared_data("coco_mini") / "images.jsonl"
    assert photos.run([f"--boxes={table}", f"--out={tmp_path}", f"--small={small}"]) == 0
    found = [json.loads(line) for line in (tmp_path / "photos.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in table.read_text().splitlines()]
    assert [line["photo"] for line in found] == [record["file_name"] for record in records]
    named = {label: WHITELIST.group_of[e[0]] for label, e in ENTRIES.items() if e}
    for line, record in zip(found, records, strict=True):
        groups = set()
        for item in record["objects"]:
            x, y, w, h = item["bbox_xywh"]
            wide, high = record["width"], record["height"]
            at_border = min(x + w / 2, wide - x - w / 2) <= 0.1 * wide + 1e-6
            at_border |= min(y + h / 2, high - y - h / 2) <= 0.1 * high + 1e-6
            short = (w < 0.3 * wide, h < 0.3 * high)
            tiny = all(short) if small == "and" else any(short)
            if item["label"] == "person" and (at_border or tiny):
                continue
            groups |= {named[item["label"]]} if item["label"] in named else set()
        assert line["kept"] == bool(groups)
        assert set(line.get("groups", ())) == groups
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert statistics["photos"] == 491 == statistics["kept"] + sum(statistics["dropped"].values())
    assert statistics["kept"] == sum(line["kept"] for line in found)
