"""Two runs, query by query: who is right where, and a refusal where they cannot be compared."""

from __future__ import annotations

import html
import json
import shutil
import subprocess

import pytest

from mmjax.compare import pair_up, run
from mmjax.errors import UserError
from tests.page_reader import HOSTILE, Page


def answer(i: int, above: int, equal: int = 1, **more) -> dict:
    return {
        "id": f"q{i}",
        "turns": [{"speaker": 0, "text": f"query {i}"}, {"speaker": 1, "text": "well"}],
        "sharer": 0,
        "asked": [0],
        "query": f"query {i}",
        "photo": f"p{i}",
        "labels": [f"label {i}"],
        "score": 0.5,
        "above": above,
        "equal": equal,
        "top": [{"photo": f"p{k}", "labels": [f"label {k}"], "score": 1 - k / 9} for k in range(4)],
        **more,
    }


A = [answer(0, 0), answer(1, 5), answer(2, 0, equal=3), answer(3, 0)]
B = [answer(0, 7), answer(1, 0), answer(2, 0), answer(3, 0)]


def written(path, answers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(a) + "\n" for a in answers))
    return str(path)


def compared(tmp_path, a, b) -> Page:
    files = [
        written(tmp_path / name / "predictions" / "dev.jsonl", side)
        for name, side in (("one", a), ("two", b))
    ]
    assert run([*files, f"--out={tmp_path / 'page.html'}"]) == 0
    return Page(tmp_path / "page.html")


def test_each_query_has_both_ranks_and_both_lists(tmp_path, capsys):
    found = compared(tmp_path, A, B[::-1])  # in any order
    shown = {example["id"]: example for example in found.data["examples"]}
    # Three photos with the same score as the right one: its rank is expected to be 2.
    ranks = {name: example["ranks"] for name, example in shown.items()}
    assert ranks == {"q0": [1, 8], "q1": [6, 1], "q2": [2, 1], "q3": [1, 1]}
    photos = found.data["photos"]
    assert photos[shown["q1"]["photo"]] == {"id": "p1", "labels": ["label 1"]}
    for side in shown["q1"]["top"]:
        assert [photos[k]["id"] for k in side] == ["p0", "p1", "p2", "p3"]
    facts = dict(zip(found.inside["dt"], found.inside["dd"], strict=True))
    assert (facts["A"], facts["B"], facts["queries"]) == ("one", "two", "4")
    # q2 of A: one of three that tie is first with probability 1/3.
    assert facts["R@1, A and B"] == "58.3 · 75.0" and facts["R@5, A and B"] == "75.0 · 75.0"
    assert facts["sum, A minus B [95 %]"].startswith("-16.7 [")
    assert "R@1, A and B  58.3 · 75.0" in capsys.readouterr().out
    counts = found.inside["b"]
    assert counts == ["1", "2", "1", "0"]  # only A, only B, both, neither


def test_a_query_is_found_by_who_was_right(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("there is no chromium")
    compared(tmp_path, A, B)

    def names(address: str) -> list[str]:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"file://{tmp_path / 'page.html'}{address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode or "<html" not in done.stdout:
            pytest.skip(f"chromium does not start here: {done.stderr[-300:]}")
        drawn = done.stdout.partition('id="list"')[2].partition("<footer>")[0]
        return [
            part.partition("<")[0]
            for part in drawn.split('dir="auto">')[1:]
            if part[0] == "q" and part[1].isdigit()
        ]

    assert names("#group=b") == ["q1", "q2"]
    assert names("#group=both&within=5") == ["q2", "q3"]
    assert names("#order=b") == ["q1", "q2", "q3", "q0"]


def test_html_in_the_answers_stays_text(tmp_path):
    label = {"labels": [HOSTILE], "photo": HOSTILE, "id": HOSTILE}
    side = [answer(0, 0, top=[], turns=[{"speaker": 0, "text": HOSTILE}], **label)]
    plain = compared(tmp_path, [answer(0, 0, top=[])], [answer(0, 0, top=[])])
    hostile = compared(tmp_path, side, side)
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.data["photos"] == [{"id": HOSTILE, "labels": [HOSTILE]}]
    for dangerous in ("</script x", "<!--<script", "\u2028"):
        assert dangerous not in hostile.source.replace(html.escape(HOSTILE), "")


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (B[:3], r"A and B answer other queries \(4 and 3, .*q3 is only in A"),
        ([*B, answer(9, 0)], "q9 is only in B"),
        ([*B[:3], answer(3, 0, photo="other")], "look for different photos in q3 .p3 and other."),
        ([*B[:3], answer(3, 0, top=[{"photo": "new", "labels": []}])], "B chose from other cand"),
        ([*B, B[0]], "B answers a query twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(b, message):
    with pytest.raises(UserError, match=message):
        pair_up(A, b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "holds no answer"),
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 is no answer of a retrieval run"),
        (json.dumps({"id": "a", "turns": [], "shared_after": 1}), "no answer of a retrieval run"),
        (json.dumps(answer(0, 0, turns=[1])), "no answer of a retrieval run"),
        (json.dumps(answer(0, 0, top=[1])), "no answer of a retrieval run"),
    ],
)
def test_a_file_that_is_no_prediction_is_named_with_exit_code_2(tmp_path, capsys, text, message):
    path = tmp_path / "b.jsonl"
    if text is not None:
        path.write_text(text)
    assert run([written(tmp_path / "a.jsonl", A), str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mmjax: {path}") and message in said and said.count("\n") == 1
