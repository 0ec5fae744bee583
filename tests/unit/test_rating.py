"""Human evaluation: sheets that give nothing away, agreement by its definition, checked ratings."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmjax.data.schema import Dialogue, Turn
from mmjax.data.splits import Split
from mmjax.metrics.agreement import fleiss_kappa, krippendorff_alpha
from mmjax.metrics.head_to_head import win_tie_lose
from mmjax.rating.__main__ import run
from mmjax.rating.questions import QUESTIONNAIRES
from mmjax.rating.tables import as_markdown
from mmjax.tasks.generation_answers import told
from mmjax.tasks.response_ranking import ResponseRankingTask
from tests.page_reader import HOSTILE, Page

QUESTIONS = 6
SYSTEMS = ("gpt", "knn")


def said(system: str, k: int) -> str:
    """Both say the same to question 2."""
    return "好的" if k == 2 else f"{system.upper()} 回答{k}"


def answer(system: str, k: int, **more) -> dict:
    turns = [{"speaker": 0, "text": f"你好\u2028{k}"}, {"speaker": 0, "text": f"=问题{k}"}]
    whole = {"id": f"q{k}", "turns": turns, "references": [f"参考{k}"], "answer": said(system, k)}
    return whole | more


@pytest.fixture
def files(tmp_path) -> list[str]:
    """--system arguments of two systems."""
    return [f"--system={s}={predictions(tmp_path, s)}" for s in SYSTEMS]


def predictions(folder: Path, system: str, rows=None) -> Path:
    rows = [answer(system, k) for k in range(QUESTIONS)] if rows is None else rows
    path = folder / f"{system}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def exported(tmp_path: Path, files: list[str], *more: str) -> tuple[Path, Path]:
    out, key = tmp_path / "sheets", tmp_path / "key.json"
    assert run(["export", *files, f"--out={out}", f"--key={key}", *more]) == 0
    return out, key


def rows_of(sheet: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(sheet.read_bytes().decode("utf-8-sig"), newline="")))


def fill(sheet: Path, choose) -> Path:
    """Writes choose(row, question) into a sheet, as a spreadsheet would."""
    rows = rows_of(sheet)
    for row in rows:
        for name in ("fluency", "relevance", "error"):
            if name in row:
                row[name] = choose(row, name)
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return sheet


def table(tmp_path: Path, key: Path, sheets: list[Path]) -> dict:
    out = tmp_path / "table.json"
    assert run(["table", f"--key={key}", *(f"--sheet={s}" for s in sheets), f"--out={out}"]) == 0
    return json.loads(out.read_text("utf-8"))


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 2
    message = capsys.readouterr().err
    assert message.startswith("mmjax: ") and message.count("\n") == 1
    return message


def test_kappa_is_that_of_fleiss_own_example():
    # Fleiss (1971), 10 subjects, 14 raters, 5 categories: 0.210.
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)


def test_kappa_counts_pairs_of_raters():
    chosen = np.random.default_rng(0).integers(0, 3, size=(20, 4))
    agree = [a == b for row in chosen for a, b in itertools.combinations(row, 2)]
    shares = np.bincount(chosen.ravel(), minlength=3) / chosen.size
    expected = (np.mean(agree) - (shares**2).sum()) / (1 - (shares**2).sum())
    counts = np.stack([np.bincount(row, minlength=3) for row in chosen])
    assert fleiss_kappa(counts) == pytest.approx(expected)


def test_kappa_says_nothing_of_one_category_and_refuses_uneven_raters():
    assert np.isnan(fleiss_kappa(np.array([[3, 0], [3, 0]])))
    for counts in ([[1, 0]], [[2, 0], [1, 2]], np.zeros((0, 2))):
        with pytest.raises(ValueError, match="same number of ratings, two or more"):
            fleiss_kappa(np.array(counts))


# Krippendorff (2011): 4 observers, 12 units.
OBSERVED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
        [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
    ]
).T


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_that_of_krippendorffs_own_example(level, published):
    assert krippendorff_alpha(OBSERVED, level) == pytest.approx(published, abs=5e-4)


def test_alpha_is_one_less_the_quotient_of_two_mean_distances():
    rng = np.random.default_rng(0)
    ratings = rng.choice([1, 2, 4, 7, np.nan], size=(15, 5))
    units = [row[~np.isnan(row)].tolist() for row in ratings]
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]

    def between(a, b):
        low, high = sorted((a, b))
        return sum(low <= x <= high for x in pooled) - (pooled.count(a) + pooled.count(b)) / 2

    distances = {
        "nominal": lambda a, b: a != b,
        "ordinal": lambda a, b: between(a, b) ** 2,
        "interval": lambda a, b: (a - b) ** 2,
    }
    for level, distance in distances.items():
        observed = sum(
            sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1)
            for unit in units
        ) / len(pooled)
        by_chance = np.mean([distance(a, b) for a, b in itertools.permutations(pooled, 2)])
        expected = 1 - observed / by_chance
        assert krippendorff_alpha(ratings, level) == pytest.approx(expected), level


def test_alpha_says_nothing_of_one_value_or_of_single_ratings():
    for ratings in ([[2, 2], [2, np.nan]], [[1, np.nan], [np.nan, 2]], np.zeros((0, 2))):
        assert np.isnan(krippendorff_alpha(np.array(ratings), "ordinal"))
    with pytest.raises(ValueError, match="no level 'ratio'"):
        krippendorff_alpha(OBSERVED, "ratio")


def test_a_sign_test_counts_wins_against_losses_and_groups_once():
    a = np.array([3.0, 3, 3, 3, 3, 3, 3, 3, 1, 2])
    b = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 3, 2])
    # Eight heads or more of nine throws, or as many tails.
    assert win_tie_lose(a, b) == (8, 1, 1, pytest.approx(2 * (9 + 1) / 2**9))
    assert win_tie_lose(b, a) == (1, 1, 8, win_tie_lose(a, b).p)
    groups = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    assert win_tie_lose(a, b, groups=groups) == (8, 1, 1, pytest.approx(2 * (4 + 1) / 2**4))
    assert win_tie_lose(a, a) == (0, 10, 0, 1)
    with pytest.raises(ValueError, match="as many numbers"):
        win_tie_lose(a, b[1:])


def test_a_sheet_does_not_say_who_answered(tmp_path, files):
    out, key = exported(tmp_path, files)
    told = json.loads(key.read_text("utf-8"))
    for sheet in sorted(out.glob("*.csv")):
        rows = rows_of(sheet)
        # Question 2 has one answer of both systems; each other one two.
        assert len(rows) == 2 * QUESTIONS - 1 == len(told["items"])
        assert not {"system", "id"} & set(rows[0])
        cells = [cell for row in rows for cell in (*row, *row.values())]
        secret = (*SYSTEMS, *(f"q{k}" for k in range(QUESTIONS)))
        assert not [cell for cell in cells if any(name in cell for name in secret)]
    page = Page(out / "dialogues.html")
    assert not [name for name in secret if name in json.dumps(page.data)]
    assert "参考" not in page.source
    both = [item for item in told["items"].values() if len(item["systems"]) == 2]
    assert [item["id"] for item in both] == ["q2"]


def test_every_rater_has_an_order_of_their_own_that_the_seed_repeats(tmp_path, files):
    out, _ = exported(tmp_path, files)
    orders = [[row["item"] for row in rows_of(out / f"rater_{n}.csv")] for n in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}
    again, _ = exported(tmp_path / "again", files)
    assert (again / "rater_1.csv").read_bytes() == (out / "rater_1.csv").read_bytes()
    other, _ = exported(tmp_path / "other", files, "--seed=1")
    assert (other / "rater_1.csv").read_bytes() != (out / "rater_1.csv").read_bytes()


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path, files):
    out, _ = exported(tmp_path, files, "--references")
    for row in rows_of(out / "rater_1.csv"):
        assert row["query"].startswith("'=问题")
        assert row["references"].startswith("参考")


def test_the_table_gives_each_system_its_ratings(tmp_path, files, capsys):
    out, key = exported(tmp_path, files)

    def choose(row, name):
        if name == "fluency":
            return "3"
        return "2" if "好的" in row["answer"] else "3" if "GPT" in row["answer"] else "1.0"

    found = table(tmp_path, key, [fill(sheet, choose) for sheet in sorted(out.glob("*.csv"))])
    relevance = found["questions"]["relevance"]
    assert relevance["kappa"] == pytest.approx(1)
    assert relevance["alpha"] == pytest.approx({"ordinal": 1, "interval": 1})
    pair = {"first": "gpt", "second": "knn", "wins": 5, "ties": 1, "losses": 0, "p": 2 / 2**5}
    assert relevance["pairs"] == [pytest.approx(pair)]
    fluency = found["questions"]["fluency"]
    assert fluency["kappa"] is None and fluency["alpha"] == {"ordinal": None, "interval": None}
    gpt, knn = (relevance["systems"][s] for s in SYSTEMS)
    assert gpt["mean"] == pytest.approx((5 * 3 + 2) / 6)
    assert knn["mean"] == pytest.approx((5 * 1 + 2) / 6)
    assert gpt["of"] == {f"q{k}": 2 if k == 2 else 3 for k in range(QUESTIONS)}
    shown = capsys.readouterr().out
    assert "| gpt | 6 | 2.83 [" in shown
    assert "gpt is better than knn: +1.67 [" in shown
    assert "No winner" in shown  # fluency
    assert "undefined: all ratings are the same" in shown
    assert "Krippendorff's alpha 1.000 (ordinal), 1.000 (interval)" in shown
    assert "| gpt against knn | 83 | 17 | 0 | 0.062 |" in shown


def test_raters_who_differ_are_averaged_and_agree_less(tmp_path, files):
    out, key = exported(tmp_path, files, "--raters=2")
    one, two = sorted(out.glob("*.csv"))
    sheets = [fill(one, lambda row, name: "1"), fill(two, lambda row, name: "3")]
    found = table(tmp_path, key, sheets)["questions"]["relevance"]
    assert found["kappa"] == pytest.approx(-1)
    assert found["systems"]["gpt"]["mean"] == 2


def test_questions_of_one_dialogue_are_drawn_together(tmp_path, capsys):
    def files(folder: Path, **of: dict[int, str]) -> list[str]:
        folder.mkdir()
        return [
            f"--system={s}="
            + str(
                predictions(
                    folder, s, [answer(s, k, **of.get(s, {}).get(k, {})) for k in range(QUESTIONS)]
                )
            )
            for s in SYSTEMS
        ]

    def found(folder: Path, systems: list[str]) -> tuple[dict, list, str]:
        out, key = exported(folder, systems, "--raters=1")

        def choose(row, _):  # the first three questions are the good ones, and gpt's better still
            good = any(str(k) in row["answer"] for k in (0, 1)) or "好的" in row["answer"]
            return "3" if good else "2" if "GPT" in row["answer"] else "1"

        capsys.readouterr()
        whole = table(folder, key, [fill(out / "rater_1.csv", choose)])
        of = whole["questions"]["relevance"]
        return of["systems"]["knn"], of["pairs"], capsys.readouterr().out

    of = {k: {"dialogue": f"d{k // 3}"} for k in range(QUESTIONS)}
    # One file may say it for all.
    together, pairs, shown = found(tmp_path / "two", files(tmp_path / "two", gpt=of))
    alone, *_ = found(tmp_path / "six", files(tmp_path / "six"))
    assert together["mean"] == alone["mean"] == 2
    # Three wins are one where they are of one dialogue.
    assert pairs == [{"first": "gpt", "second": "knn", "wins": 3, "ties": 3, "losses": 0, "p": 1}]
    # Of two dialogues with means 3 and 1, a quarter of all draws has one of them twice.
    assert together["interval"] == [1, 3]
    low, high = alone["interval"]
    assert low > 1 and high < 3
    assert "11 answers, 2 dialogues" in shown and "[+0.00, +1.00] (paired" in shown
    other = files(tmp_path / "no", gpt=of, knn={0: {"dialogue": "d9"}})
    said = refused(capsys, "cases", *other, f"--out={tmp_path / 'p.html'}")
    assert '"dialogue" of q0 is no text, or not the same for gpt and knn' in said


def test_predictions_say_which_dialogue_a_question_is_of():
    talk = Dialogue("d#7", (Turn(0, "在吗"), Turn(1, "在的"), Turn(1, "您说")), targets=(1, 2))
    split = Split([talk], SimpleNamespace(record=np.array([0, 0]), sub=np.array([1, 2])))
    goal = SimpleNamespace(read=lambda sub: sub, references=lambda turn: [turn.text])
    assert [(a["id"], a["dialogue"]) for a in told(goal, split, ["好", "好"])] == [
        ("d#7#1", "d#7"),
        ("d#7#2", "d#7"),
    ]
    ranker = SimpleNamespace(references=lambda dialogue, turn: ["在的"])
    assert ResponseRankingTask.told(ranker, split, 1, [("好", 1.0)])["dialogue"] == "d#7"


def test_the_error_taxonomy_counts_what_most_raters_chose(tmp_path, files, capsys):
    out, key = exported(tmp_path, files, "--questionnaire=errors")
    names = list(QUESTIONNAIRES["errors"][0].choices)
    assert names == ["wrong object", "wrong aspect", "over-general", "meaningless"]
    by_rater = iter([names[0], names[0], names[1]])
    sheets = []
    for sheet in sorted(out.glob("*.csv")):
        chosen = next(by_rater)
        sheets.append(
            fill(sheet, lambda row, _, c=chosen: c if "GPT" in row["answer"] else names[3].upper())
        )
    whole = table(tmp_path, key, sheets)["questions"]["error"]
    assert set(whole["alpha"]) == {"nominal"} and whole["alpha"]["nominal"] > whole["kappa"] > 0
    found = whole["systems"]
    assert found["gpt"]["shares"]["wrong object"] == pytest.approx(100 * 5 / 6)
    others = dict.fromkeys((*names[:3], "no majority"), 0)
    assert found["knn"]["shares"] == {"meaningless": 100, **others}
    assert "| system | questions | wrong object (%) |" in capsys.readouterr().out


def test_bad_answers_of_a_first_rating_go_into_the_sheet_of_errors(tmp_path, files):
    out, key = exported(tmp_path, files)
    sheets = [
        fill(s, lambda row, _: "1" if "KNN" in row["answer"] else "3") for s in out.glob("*.csv")
    ]
    table(tmp_path, key, sheets)
    errors = tmp_path / "errors"
    errors.mkdir()
    more = ("--questionnaire=errors", f"--table={tmp_path / 'table.json'}")
    out, key = exported(errors, files, *more)
    items = json.loads(key.read_text("utf-8"))["items"].values()
    assert sorted(item["id"] for item in items) == ["q0", "q1", "q3", "q4", "q5"]
    assert {tuple(item["systems"]) for item in items} == {("knn",)}


def test_raters_are_told_that_a_photo_was_shown(tmp_path):
    turns = [{"speaker": 0, "text": "", "photos": ["p1.png"]}]
    rows = [{"id": "q", "turns": turns, "references": ["好"], "answer": "好的"}]
    files = [f"--system=a={predictions(tmp_path, 'a', rows)}"]
    out, _ = exported(tmp_path, files)
    for sheet in out.glob("*.csv"):
        assert rows_of(sheet)[0]["query"] == "[photo p1.png]"
    for page in out.glob("*.html"):
        assert "[photo p1.png]" in page.read_text("utf-8")
    assert len(list(out.iterdir())) > 1


def test_systems_that_share_no_question_have_no_winner():
    found = {"mean": 2.0, "interval": [1.0, 3.0]}
    systems = {"a": {**found, "of": {"q0": 2.0}}, "b": {**found, "of": {"q1": 2.0}}}
    question = {"kappa": None, "alpha": {}, "raters": 1, "systems": systems, "pairs": []}
    about = {"items": 2, "dialogues": {"q0": "q0", "q1": "q1"}}
    shown = as_markdown({**about, "questions": {"fluency": question}})
    assert "No winner: no question was answered for both a and b." in shown


def test_a_case_study_shows_all_answers_with_their_ratings(tmp_path, files):
    out, key = exported(tmp_path, files)
    table(tmp_path, key, [fill(s, lambda row, _: "2") for s in out.glob("*.csv")])
    page = tmp_path / "cases.html"
    assert run(["cases", *files, f"--table={tmp_path / 'table.json'}", f"--out={page}"]) == 0
    first = Page(page).data["examples"][0]
    assert first["references"] == ["参考0"]
    notes = ["fluency 2", "relevance 2"]
    assert first["answers"] == [
        {"name": "gpt", "text": "GPT 回答0", "notes": notes},
        {"name": "knn", "text": "KNN 回答0", "notes": notes},
    ]


def test_html_in_an_answer_stays_text(tmp_path):
    turns = [{"speaker": 0, "text": HOSTILE}]
    rows = [answer("gpt", 0, turns=turns, answer=HOSTILE, references=[HOSTILE], id=HOSTILE)]
    system = f"--system=gpt={predictions(tmp_path, 'gpt', rows)}"
    out, _ = exported(tmp_path, [system], "--references")
    plain, _ = exported(
        tmp_path / "plain",
        [f"--system=gpt={predictions(tmp_path, 'other', [answer('gpt', 0)])}"],
        "--references",
    )
    page = Page(out / "dialogues.html")
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(plain / "dialogues.html").tags]
    assert page.data["examples"][0]["answers"][0]["text"] == HOSTILE


def test_bad_predictions_are_refused_in_one_sentence(tmp_path, files, capsys):
    def message(*systems: str) -> str:
        return refused(capsys, "cases", *systems, f"--out={tmp_path / 'p.html'}")

    fewer = predictions(tmp_path, "few", [answer("gpt", k) for k in range(3)])
    assert "answer other questions (q3 is only in one" in message(files[0], f"--system=b={fewer}")
    twice = predictions(tmp_path, "two", [answer("gpt", 0), answer("gpt", 0)])
    assert "answers a question twice" in message(f"--system=b={twice}")
    turned = [answer("gpt", k, turns=[{"speaker": 0, "text": "另"}]) for k in range(QUESTIONS)]
    other = predictions(tmp_path, "turned", turned)
    assert "have other turns in q0" in message(files[0], f"--system=b={other}")
    odd = predictions(tmp_path, "odd", [answer("gpt", 0, references=[1])])
    assert "line 1 is no answer of a generation run" in message(f"--system=b={odd}")
    assert "cannot be read" in message(f"--system=b={tmp_path / 'none'}")
    assert "write NAME=FILE" in message("--system=b")
    assert "another system 'gpt'" in message(files[0], files[0])


def test_sheets_are_never_written_over_and_the_key_never_beside_them(tmp_path, files, capsys):
    out, _ = exported(tmp_path, files)
    command = ["export", *files]
    assert "there already" in refused(capsys, *command, f"--out={out}", "--key=other.json")
    fresh = tmp_path / "fresh"
    said = refused(capsys, *command, f"--out={fresh}", f"--key={fresh / 'in' / 'key.json'}")
    assert "which raters see" in said and not fresh.exists()
    assert "there are 6 questions" in refused(
        capsys, *command, f"--out={fresh}", f"--key={tmp_path / 'k'}", "--count=7"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",3,3,", ",3,4,", 1), "relevance is '4'; choose of 1, 2, 3"),
        (lambda text: text.replace(",3,3,", ",,3,", 1), "fluency is not rated"),
        (lambda text: text.rsplit("\n00", 1)[0] + "\n", "(1 are missing): keep all rows"),
        (lambda text: text + text.split("\n", 1)[1], "is there twice"),
        (lambda text: text.replace("relevance", "relevant", 1), "has no column 'relevance'"),
        (lambda text: text.replace("00001", "00099", 1), "is of other sheets than the key"),
        (lambda text: "", "has no column 'item'"),
    ],
)
def test_a_sheet_that_would_make_a_wrong_table_is_refused(tmp_path, files, capsys, change, message):
    out, key = exported(tmp_path, files, "--raters=1")
    sheet = fill(out / "rater_1.csv", lambda row, name: "3")
    text = change(sheet.read_bytes().decode("utf-8").replace("\r\n", "\n"))
    sheet.write_bytes(text.encode())
    assert message in refused(capsys, "table", f"--key={key}", f"--sheet={sheet}")


def test_sheets_must_belong_to_the_key(tmp_path, files, capsys):
    out, key = exported(tmp_path, files, "--raters=2")
    sheets = [fill(sheet, lambda row, name: "3") for sheet in sorted(out.glob("*.csv"))]
    one = [f"--sheet={sheets[0]}"]
    (tmp_path / "empty.json").write_text("{}")
    assert "2 raters and 1 sheets" in refused(capsys, "table", f"--key={key}", *one)
    assert "named twice" in refused(capsys, "table", f"--key={key}", *one, *one)
    assert "is no JSON" in refused(capsys, "table", f"--key={sheets[0]}", *one)
    assert "is no key" in refused(capsys, "table", f"--key={tmp_path / 'empty.json'}", *one)
    _, other = exported(tmp_path / "other", files, "--raters=2", "--seed=5")
    both = [f"--sheet={sheet}" for sheet in sheets]
    assert "of other sheets" in refused(capsys, "table", f"--key={other}", *both)
