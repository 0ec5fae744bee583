"""The page of a retrieval model's answers: complete, inert, self-contained, small."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmjax.data.images import BadImageError
from mmjax.observe.page import thumbnail, write_page
from tests.page_reader import HOSTILE, Page


def answer(name="a/0", *, above=0, photo="p0", labels=("Dog",), turns=None, asked=(0,), **more):
    turns = [(0, "Look at my dog."), (1, "Show me!")] if turns is None else turns
    return {
        "id": name,
        "turns": [{"speaker": s, "text": t} for s, t in turns],
        "asked": list(asked),
        "query": " ".join(turns[i][1] for i in asked),
        "photo": photo,
        "labels": list(labels),
        "above": above,
        "score": 0.5,
        "top": [
            {"photo": f"p{i}", "labels": [f"label {i}"], "score": 1 - i / 10} for i in range(7)
        ],
        **more,
    }


def page(tmp_path, answers, *, thumbnail=lambda name: None, title="A title", about=None, **more):
    path = tmp_path / "page.html"
    write_page(path, answers, thumbnail=thumbnail, title=title, about=about or {}, **more)
    return Page(path)


def test_every_answer_is_in_the_page_with_its_dialogue_photo_rank_and_five_best(tmp_path):
    answers = [answer(f"a/{i}", above=i, photo=f"p{i}", labels=[f"label {i}"]) for i in range(9)]
    data = page(tmp_path, answers).data
    assert len(data["examples"]) == 9
    for given_, shown in zip(answers, data["examples"], strict=True):
        assert shown["id"] == given_["id"]
        assert shown["rank"] == given_["above"] + 1
        assert shown["turns"] == [[0, "Look at my dog.", 1, None], [1, "Show me!", 0, None]]
        assert data["photos"][shown["photo"]]["id"] == given_["photo"]
        assert data["photos"][shown["photo"]]["labels"] == given_["labels"]
        top = [(data["photos"][i]["id"], score) for i, score in shown["top"]]
        assert top == [(photo["photo"], photo["score"]) for photo in given_["top"][:5]]
    # The right photo is found among the five because it is the same entry of the table.
    assert data["examples"][3]["photo"] == data["examples"][3]["top"][3][0]


def test_each_photo_is_embedded_once_however_often_it_is_shown(tmp_path):
    answers = [answer(f"a/{i}") for i in range(20)]
    pictures = {f"p{i}": f"picture {i}".encode() for i in range(4)} | {"p4": b"picture 0"}
    asked: list[str] = []

    def picture(name):
        asked.append(name)
        return pictures.get(name)

    found = page(tmp_path, answers, thumbnail=picture)
    assert sorted(asked) == ["p0", "p1", "p2", "p3", "p4"]  # the sixth best is not shown
    encoded = [base64.b64encode(f"picture {i}".encode()).decode() for i in range(4)]
    assert found.data["images"] == encoded
    assert all(found.source.count(text) == 1 for text in encoded)
    image_of = {photo["id"]: photo["image"] for photo in found.data["photos"]}
    assert image_of["p0"] == image_of["p4"] == 0 and image_of["p3"] == 3


def test_a_photo_without_pixels_has_labels_and_no_image(tmp_path):
    data = page(tmp_path, [answer(photo="none", labels=["Cat", "Sofa"])]).data
    assert data["images"] == []
    assert {"id": "none", "labels": ["Cat", "Sofa"], "image": None} in data["photos"]


def test_nothing_outside_the_file_is_asked_for(tmp_path):
    found = page(tmp_path, [answer()], thumbnail=lambda name: b"x")
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
        assert not {"src", "srcset", "href", "action", "data", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    own = found.source.replace(found.inside["script#data"][0], "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|innerHTML|eval\(", own)


def test_the_security_policy_allows_the_pages_own_style_and_script_and_no_other(tmp_path):
    found = page(tmp_path, [answer()])
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for rule, element in (("style-src", "style"), ("script-src", "script")):
        (text,) = found.inside[element]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"


def test_html_in_texts_labels_names_and_facts_stays_text(tmp_path):
    plain = page(tmp_path, [answer()], about={"split": "dev"})
    hostile = page(
        tmp_path,
        [answer(HOSTILE, photo=HOSTILE, labels=[HOSTILE], turns=[(0, HOSTILE)])],
        title=HOSTILE,
        about={HOSTILE: HOSTILE},
    )
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    (example,) = hostile.data["examples"]
    assert example["id"] == example["turns"][0][1] == HOSTILE
    assert hostile.data["photos"][example["photo"]]["id"] == HOSTILE
    squeezed = " ".join(HOSTILE.split())
    assert hostile.text("h1") == hostile.text("dt") == hostile.text("dd") == squeezed
    # Browsers end a script at the first, and miss its end after the second.
    for dangerous in ("</script x", "<!--<script", "\u2028"):
        assert dangerous not in hostile.source.replace(html.escape(HOSTILE), "")


@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_string_survives_the_way_into_the_page(tmp_path, text):
    found = page(tmp_path, [answer(text, turns=[(0, text)], labels=[text])], title="t")
    (example,) = found.data["examples"]
    assert example["id"] == example["turns"][0][1] == text
    assert found.data["photos"][example["photo"]]["labels"] == [text]


def test_no_answers_make_a_page_without_examples(tmp_path):
    found = page(tmp_path, [])
    tables = ("examples", "photos", "images", "labels", "categories")
    assert found.data == {table: [] for table in tables}
    assert "all 0 examples" in found.text("figcaption")


def test_long_dialogues_and_labels_are_whole(tmp_path):
    turns = [(i % 2, f"turn {i}") for i in range(5000)]
    data = page(tmp_path, [answer(turns=turns, labels=["x" * 10_000])]).data
    assert [turn[1] for turn in data["examples"][0]["turns"]] == [text for _, text in turns]
    assert data["photos"][data["examples"][0]["photo"]]["labels"] == ["x" * 10_000]


def test_the_sharer_is_the_one_speaker_who_asked_or_the_one_that_is_named(tmp_path):
    turns = [(0, "a"), (1, "b"), (0, "c")]
    answers = [
        answer(turns=turns, asked=[1]),
        answer(turns=turns, asked=[0, 1, 2]),
        answer(turns=turns, asked=[0, 1, 2], sharer=1),
        answer(turns=turns[:1], asked=[0]),
    ]
    examples = page(tmp_path, answers).data["examples"]
    assert [example["sharer"] for example in examples] == [1, None, 1, 0]


def test_scores_that_are_no_numbers_are_null(tmp_path):
    shown = page(tmp_path, [answer(score=math.nan), answer(score=-math.inf)]).data["examples"]
    assert [example["score"] for example in shown] == [None, None]


def test_of_too_many_answers_the_worst_and_an_even_sample_are_shown_and_named(tmp_path):
    ranks = np.random.default_rng(0).permutation(1000)
    answers = [answer(f"a/{i}", above=int(above)) for i, above in enumerate(ranks)]
    found = page(tmp_path, answers, limit=100)
    shown = found.data["examples"]
    assert len({example["id"] for example in shown}) == len(shown) == 100
    positions = [example["position"] for example in shown]
    assert positions == sorted(positions)
    assert [example["id"] for example in shown] == [f"a/{i}" for i in positions]
    above = np.sort([example["rank"] - 1 for example in shown])
    assert (above[50:] == np.arange(950, 1000)).all()
    assert above[0] == 0 and above[49] == 949
    assert set(np.diff(above[:50])) <= {19, 20}
    sentence = next(text for text in found.inside["p"] if "to keep the file small" in text)
    assert "100 of 1,000" in sentence and "50 most wrong" in sentence


@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10, 11])
def test_the_page_holds_as_many_examples_as_the_limit_says(tmp_path, limit):
    answers = [answer(f"a/{i}", above=i) for i in range(10)]
    found = page(tmp_path, answers, limit=limit)
    assert len(found.data["examples"]) == min(limit, 10)
    assert max(example["rank"] for example in found.data["examples"]) == 10
    assert any("to keep the file small" in text for text in found.inside["p"]) == (limit < 10)


def test_recalls_are_listed_for_every_label_of_the_right_photo_over_all_answers(tmp_path):
    answers = [
        answer("a", above=0, labels=["Dog", "Cat", "Dog"]),
        answer("b", above=1, labels=["Dog"]),
        answer("c", above=4, equal=4, labels=["Dog"]),  # of 4 equal ones, 1 is among the 5 best
        answer("d", above=50, labels=["Cat"]),
        answer("e", above=50, labels=[]),
    ]
    data = page(tmp_path, answers, limit=1).data
    assert data["labels"] == [
        ["Dog", 3, pytest.approx(100 / 3, abs=0.01), 75.0, 100.0],
        ["Cat", 2, 50.0, 50.0, 50.0],
    ]


def test_recalls_are_listed_for_every_category_of_the_right_photo_over_all_answers(tmp_path):
    answers = [
        answer("a", above=0, labels=["Sofa", "Cake", "Milk"]),
        answer("b", above=7, labels=["cake", "person"]),  # as COCO calls them
        answer("c", above=2, labels=["Woman", "Face"]),
        answer("d", above=0, labels=["Sofa"]),
        answer("e", above=0, labels=[]),
    ]
    found = page(tmp_path, answers)
    assert found.data["categories"] == [
        ["people", 2, 0.0, 50.0, 100.0],
        ["food", 2, 50.0, 50.0, 100.0],
    ]
    shown = [example["categories"] for example in found.data["examples"]]
    assert shown == [["food"], ["people", "food"], ["people"], [], []]
    assert "Recall by category of the right photo" in found.inside["summary"]


def test_where_no_label_has_a_category_there_is_nothing_of_them(tmp_path):
    found = page(tmp_path, [answer(labels=["Dog", "Sofa"])])
    assert found.data["categories"] == []
    assert found.inside["summary"] == ["Recall by label of the right photo"]


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit=0"):
        page(tmp_path, [answer()], limit=0)


def test_the_histogram_counts_all_answers_by_rank(tmp_path):
    ranks = [1] * 3 + [2, 5, 6, 10, 11, 20, 21, 50, 51, 100, 101, 1000, 1001, 5000]
    found = page(tmp_path, [answer(above=rank - 1) for rank in ranks], limit=2)
    bars = re.findall(r"<b>(\d+)</b>.*?</i>([^<]+)</span>", found.source)
    assert [(name, int(count)) for count, name in bars] == [
        ("1", 3),
        ("2–5", 2),
        ("6–10", 2),
        ("11–20", 2),
        ("21–50", 2),
        ("51–100", 2),
        ("101–1,000", 2),
        ("&gt;1,000", 2),
    ]


@pytest.mark.parametrize("size", [(640, 480), (90, 200), (3000, 20), (1, 1)])
def test_a_thumbnail_is_a_small_jpeg_of_the_photos_shape(size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    small = Image.open(io.BytesIO(thumbnail(_png(pixels), side=64)))
    assert small.format == "JPEG" and min(small.size) == 64
    ratio = min(max(size) / min(size), 1.5)
    assert max(small.size) == pytest.approx(64 * ratio, abs=1)
    assert (small.width > small.height) == (size[0] > size[1])


def test_a_thumbnail_shows_the_middle_of_a_long_photo():
    pixels = np.zeros((40, 400, 3), np.uint8)
    pixels[:, 170:230] = (0, 200, 0)
    small = np.asarray(Image.open(io.BytesIO(thumbnail(_png(pixels), side=40))))
    assert np.abs(small.astype(int) - (0, 200, 0)).max() < 12


def test_bytes_that_are_no_image_make_no_thumbnail():
    with pytest.raises(BadImageError):
        thumbnail(b"no image")


def test_thumbnails_of_real_photos_take_a_few_kilobytes(shared_data):
    photos = sorted((shared_data("coco_mini") / "images").iterdir())[:40]
    assert np.mean([len(thumbnail(photo.read_bytes())) for photo in photos]) < 8_000


def test_a_browser_draws_what_the_address_asks_for(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("there is no chromium")
    turns = {0: [(0, HOSTILE)], 1: [(0, "a ZEBRA"), (1, "")], 2: [(0, "zebra crossing")]}
    labels = {0: ["Dog", "Cake"], 1: ["Dog", "Cake", "Man"], 2: ["Dog", "Woman"]}
    answers = [answer(f"a/{i}", above=10 * i, turns=turns[i], labels=labels[i]) for i in turns]
    path = tmp_path / "page.html"
    write_page(path, answers, thumbnail=lambda name: None, title="t", about={})

    def whole(address: str) -> tuple[str, str]:
        """What is above the list, and the list."""
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"file://{path}{address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode or "<html" not in done.stdout:
            pytest.skip(f"chromium does not start here: {done.stderr[-300:]}")
        above, _, below = done.stdout.partition('id="list"')
        return above, below.partition("<footer>")[0]

    def draw(address: str) -> str:
        return whole(address)[1]

    def ranks(drawn: str) -> list[int]:
        return [int(rank) for rank in re.findall(r">rank (\d+)<", drawn)]

    drawn = draw("")
    assert ranks(drawn) == [21, 11, 1]
    assert "&lt;script&gt;alert(1)" in drawn and "<script>alert" not in drawn
    drawn = draw("#q=zebra&order=best")
    assert ranks(drawn) == [11, 21]
    assert drawn.count("<mark>") == 2 and "<mark>ZEBRA</mark>" in drawn
    assert ranks(draw("#q=zebra&group=1")) == []
    assert ranks(draw("#label=Rat")) == [21, 11, 1]  # no such label: all
    above, drawn = whole("#category=people&label=Cake")
    assert ranks(drawn) == [11]  # of 11 and 21, and of 1 and 11
    rows = re.findall(
        r'<button type="button" dir="auto">(\w+)</button></th>((?:<td>.*?</td>)*)', above
    )
    numbers = {name: re.findall(r"<td>(.*?)</td>", cells) for name, cells in rows}
    assert numbers == {
        "people": ["2", "0.0", "0.0", "0.0"],
        "food": ["2", "50.0", "50.0", "50.0"],
        "Dog": ["3", "33.3", "33.3", "33.3"],
        "Cake": ["2", "50.0", "50.0", "50.0"],
        "Man": ["1", "0.0", "0.0", "0.0"],
        "Woman": ["1", "0.0", "0.0", "0.0"],
    }


def _png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()
