"""The page of an intent model: every turn with its probability, and what came of it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess

import pytest

from mmjax.errors import UserError
from mmjax.observe.intent_page import beside, write_intent_page
from mmjax.observe.page import write_page
from tests.page_reader import HOSTILE, Page


def told(name, *chances, after=-1, **more) -> dict:
    """Turns with these probabilities, alternately of two speakers."""
    turns = [
        {"speaker": k % 2, "text": f"text {k}", "probability": p} for k, p in enumerate(chances)
    ]
    shared = None if after is None else after % len(turns)
    return {"id": name, "shared_after": shared, "turns": turns, **more}


def page(tmp_path, answers, title="t", about=None) -> Page:
    write_intent_page(tmp_path / "page.html", answers, title=title, about=about or {})
    return Page(tmp_path / "page.html")


def test_every_turn_has_its_probability_and_every_dialogue_its_verdict(tmp_path):
    answers = [
        told("right", 0.1, 0.2, 0.9),
        told("early", 0.6, 0.1, 0.7, threshold=0.5),
        told("missed", 0.1, 0.3),
        told("both", 0.8, 0.3),
        told("quiet", 0.1, 0.3, after=None),
        told("lower", 0.1, 0.3, threshold=0.3),
    ]
    shown = {example["id"]: example for example in page(tmp_path, answers).data["examples"]}
    assert shown["right"]["turns"] == [
        *([0, "text 0", 0, 0.1], [1, "text 1", 0, 0.2], [0, "text 2", 0, 0.9])
    ]
    judged = {name: (e["early"], e["missed"], e["shares"]) for name, e in shown.items()}
    assert judged == {
        "right": (0, False, True),
        "early": (1, False, True),
        "missed": (0, True, True),
        "both": (1, True, True),
        "quiet": (0, False, False),
        "lower": (0, False, True),  # at the threshold means yes
    }
    assert shown["early"]["wrong"] == 0.6 and shown["missed"]["wrong"] == pytest.approx(0.7)
    assert [shown["right"]["sharer"], shown["missed"]["sharer"]] == [0, 1]


def test_the_header_counts_precision_recall_and_f1_at_the_threshold(tmp_path):
    answers = [
        told("a", 0.1, 0.9),
        told("b", 0.9, 0.9),
        told("c", 0.1, 0.1),
        told("d", 0.9, after=None),
    ]
    found = page(tmp_path, answers)
    facts = dict(zip(found.inside["dt"], found.inside["dd"], strict=True))
    # Yes was said 4 times, 2 of 3 shares were found.
    assert (facts["precision"], facts["recall"], facts["F1"]) == ("50.0", "66.7", "57.1")
    assert (facts["dialogues"], facts["turns"], facts["threshold"]) == ("4", "7", "0.5")


def test_the_figure_is_the_mean_probability_by_turns_to_the_share(tmp_path):
    found = page(
        tmp_path, [told("a", 0.2, 0.4, 0.9), told("b", 0.2, 0.7), told("c", 1, after=None)]
    )
    bars = re.findall(r"<b>([\d.]+)</b>.*?</i>([^<]+)</span>", found.source)
    assert bars == [("0.20", "2"), ("0.30", "1"), ("0.80", "share")]


def test_html_in_texts_and_names_stays_text(tmp_path):
    plain = page(tmp_path, [told("a", 0.5)], about={"x": "y"})
    answer = told(HOSTILE, 0.5)
    answer["turns"][0]["text"] = HOSTILE
    hostile = page(tmp_path, [answer], title=HOSTILE, about={HOSTILE: HOSTILE})
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.data["examples"][0]["turns"][0][1] == HOSTILE
    for dangerous in ("</script x", "<!--<script", "\u2028"):
        assert dangerous not in hostile.source.replace(html.escape(HOSTILE), "")
    assert page(tmp_path, []).data == {"examples": []}


def test_thirteen_thousand_dialogues_are_drawn_as_the_reader_scrolls(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("there is no chromium")
    answers = [told(f"d{i}", 0.1, 0.2, 0.9 if i % 2 else 0.4) for i in range(13_000)]
    page(tmp_path, answers)

    def draw(address: str) -> str:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"file://{tmp_path / 'page.html'}{address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode or "<html" not in done.stdout:
            pytest.skip(f"chromium does not start here: {done.stderr[-300:]}")
        return done.stdout.partition('id="list"')[2].partition("<footer>")[0]

    drawn = draw("#group=missed&order=id")
    assert 0 < drawn.count("<article") <= 64  # of 6,500
    assert drawn.index(">d0<") < drawn.index(">d2<") and ">d1<" not in drawn
    assert drawn.count("probability that a photo follows") == 3 * drawn.count("<article")
    assert "yes</i>" not in drawn and "missed" in drawn


# Beside a retrieval model's answers


def asked(name, *turns, **more) -> dict:
    return {
        "id": name,
        "turns": [{"speaker": who, "text": text} for who, text in turns],
        "asked": [0],
        "photo": "p",
        "labels": [],
        "above": 0,
        "score": 0.5,
        "top": [],
        **more,
    }


def test_a_probability_stands_after_the_last_message_of_its_turn(tmp_path):
    answer = asked("a", (0, "text"), (0, " 0 "), (1, "  "), (1, "text 1"), (0, "text 2"))
    (found,) = beside([answer], [told("a", 0.1, 0.2, 0.9, threshold=0.3)], "f")
    assert [turn.get("probability") for turn in found["turns"]] == [None, 0.1, None, 0.2, 0.9]
    assert found["threshold"] == 0.3
    assert "probability" not in answer["turns"][1]  # what was given is not changed
    write_page(tmp_path / "p.html", [found], thumbnail=lambda _: None, title="t", about={})
    read = Page(tmp_path / "p.html")
    (example,) = read.data["examples"]
    assert [turn[3] for turn in example["turns"]] == [None, 0.1, None, 0.2, 0.9]
    assert example["threshold"] == 0.3
    assert any("chance that a photo follows" in text for text in read.inside["span"])


def test_later_photos_of_a_dialogue_and_dialogues_that_intent_skipped_are_no_mistake():
    first = ((0, "text 0"), (1, "text 1"))
    answers = [asked("a", *first), asked("a#1", *first, (1, "more"), (0, "x")), asked("b", *first)]
    found = beside(answers, [told("a", 0.1, 0.9)], "f")
    chances = [[turn.get("probability") for turn in answer["turns"]] for answer in found]
    assert chances == [[0.1, 0.9], [0.1, None, 0.9, None], [None, None]]


def test_intent_on_other_dialogues_is_refused():
    with pytest.raises(UserError, match="--intent=f knows none of these dialogues"):
        beside([asked("a", (0, "text 0"))], [told("b", 0.1)], "f")
    with pytest.raises(UserError, match="--intent=f: a has other turns there"):
        beside([asked("a", (0, "hello"))], [told("a", 0.1)], "f")
