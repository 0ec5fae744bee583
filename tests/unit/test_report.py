"""The report: what stands in the table, who wins, what is refused, and the README's update."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mmjax import report
from mmjax.errors import UserError
from mmjax.metrics.retrieval import RankCounts, RetrievalMetric
from mmjax.published.tables import load_table
from mmjax.report_formats import Kind
from mmjax.results import read_results

RELEASE = "photochat/release"
BM25 = {"system": "bm25", "task": {"candidate": "labels"}}


def write_result(folder, label, ranks, *, dataset=RELEASE, splits=("test",), **changes):
    """A run whose query q had `ranks[q]` better items and no ties."""
    folder.mkdir(parents=True)
    ranks = np.asarray(ranks)
    counts = RankCounts(ranks, np.ones_like(ranks), np.zeros_like(ranks))
    metrics = RetrievalMetric().compute(counts)
    rows = {
        "ids": [f"q{i}" for i in range(len(ranks))],
        "greater": ranks.tolist(),
        "equal": [1] * len(ranks),
        "equal_after": [0] * len(ranks),
    }
    record = {
        "format_version": 1,
        "name": folder.name,
        "label": label,
        "command": "python -m mmjax.main",
        "system": "network",
        "task": "retrieval",
        "dataset": {"name": dataset, "fingerprint": "f" + dataset, "sizes": {"test": len(ranks)}},
        "metrics": dict.fromkeys(splits, metrics),
        "intervals": {split: {"recall_sum": [1.25, 2.75]} for split in splits},
        "per_example": "per_example.json",
        "config": {},
        "versions": {},
        "device": {"kind": "cpu", "count": 1, "processes": 1, "machine": "2 cores, 24 GiB"},
        "wall_seconds": 2400.0,
        "steps": 320,
        "test_looks": 1,
    } | changes
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "per_example.json").write_text(json.dumps(dict.fromkeys(splits, rows)))
    return metrics


def table(*folders):
    results = read_results([str(f) for f in folders])
    return report.make_report(load_table("photochat_retrieval"), results)


def cells(made, label):
    (row,) = [r for r in made.rows if r[0].split(f" {report.WINNER}")[0] == label]
    return dict(zip(made.columns, row, strict=True))


@pytest.fixture
def ranks():
    return np.random.default_rng(0).geometric(0.08, size=400)


def test_published_and_measured_rows_stand_side_by_side_by_their_sum(tmp_path, ranks):
    ours = write_result(tmp_path / "deep" / "down" / "a", "Ours", ranks)
    made = table(tmp_path)
    sums = [float(row[5]) for row in made.rows]
    assert sums == sorted(sums, reverse=True) and len(sums) == 12
    row = cells(made, "Ours")
    assert row["sum"] == f"{ours['recall_sum']:.1f}" and row["R@1"] == f"{ours['recall@1']:.1f}"
    assert row["95 % of sum"] == "[1.2, 2.8]"
    assert row["measured on"] == "real PhotoChat test (400), labels only"
    assert row["training"] == "40 min on 2 cores, 24 GiB"
    assert cells(made, "SCAN, MH")["sum"] == "74.5"
    assert cells(made, "BM25")["measured on"] == "published"
    assert "ACL 2021, Table 4" in made.notes[0]


def test_published_sums_are_the_sums_of_their_recalls(tmp_path, ranks):
    write_result(tmp_path / "a", "Ours", ranks)
    published = [row for row in table(tmp_path).rows if row[1] == "published"]
    assert len(published) == 11
    for row in published:
        assert sum(map(float, row[2:5])) == pytest.approx(float(row[5]))


def test_dev_is_shown_with_its_interval_only_where_there_is_one(tmp_path, ranks):
    both = write_result(tmp_path / "a", "Both", ranks, splits=("dev", "test"))
    write_result(tmp_path / "b", "Bare", ranks, splits=("dev", "test"), intervals={})
    write_result(tmp_path / "c", "None", ranks)
    made = table(tmp_path)
    assert cells(made, "Both")["dev sum"] == f"{both['recall_sum']:.1f} [1.2, 2.8]"
    assert cells(made, "Bare")["dev sum"] == f"{both['recall_sum']:.1f}"
    assert cells(made, "Bare")["95 % of sum"] == "–"
    assert cells(made, "None")["dev sum"] == ""


def test_a_stand_in_is_marked_and_apart_from_published_rows(tmp_path, ranks):
    write_result(tmp_path / "a", "Real", ranks)
    # Of the very model of a published row: on other data it is no run of it.
    write_result(tmp_path / "b", "Demo", ranks, dataset="photochat/demo", config=BM25)
    made = table(tmp_path)
    assert report.STAND_IN in cells(made, "Demo")["measured on"]
    assert report.STAND_IN not in cells(made, "Real")["measured on"]
    assert any(report.STAND_IN in note for note in made.notes)
    first, second = made.sections
    assert "not comparable" in second.heading and [r.kind for r in second.rows] == [Kind.STAND_IN]
    assert Kind.STAND_IN not in {row.kind for row in first.rows}
    assert "Not measured yet: 11 of the 11" in made.notes[-1]


def test_a_run_of_a_published_row_stands_right_below_it(tmp_path, ranks):
    write_result(tmp_path / "a", "Ours", ranks, config=BM25)
    write_result(tmp_path / "b", "Twice", ranks // 2, config=BM25)
    write_result(tmp_path / "c", "Other", ranks, config={"system": "network"})
    rows = table(tmp_path).sections[0].rows
    place = [row.cells[0] for row in rows].index("BM25")
    assert rows[place].kind == Kind.PUBLISHED
    assert [row.cells[0][:5] for row in rows[place + 1 : place + 3]] == ["Twice", "Ours"]
    # The others keep the order of their sums, the group having its published one's.
    alone = [row for row in rows if row.kind == Kind.PUBLISHED or row.cells[0] == "Other"]
    sums = [float(row.cells[5]) for row in alone]
    assert sums == sorted(sums, reverse=True)


@pytest.mark.parametrize(
    ("dataset", "config", "told"),
    [
        (RELEASE, {"task": {"candidate": "labels"}}, "real PhotoChat test (400), labels only"),
        (RELEASE, {"task": {"candidate": "both"}}, "real PhotoChat test (400), pixels and labels"),
        (
            "photochat/demo",
            {"task": {"candidate": "pixels"}},
            "‡ stand-in: generated test (400), pixels only",
        ),
        (
            "photo_folder",
            {
                "task": {"candidate": "pixels"},
                "data": {"manual_dir": "/data/coco_mini", "pixels": "shuffled"},
            },
            "‡ stand-in: photo_folder coco_mini test (400), pixels only, shuffled",
        ),
    ],
)
def test_a_row_says_what_it_was_measured_on(tmp_path, ranks, dataset, config, told):
    write_result(tmp_path / "a", "Ours", ranks, dataset=dataset, config=config)
    assert cells(table(tmp_path), "Ours")["measured on"] == told


def test_every_figure_of_a_row_is_the_one_in_its_file(tmp_path, ranks, capsys):
    """Read back from each drawing, and compared with the file, not with what made it."""
    write_result(tmp_path / "a", "Ours", ranks, config=BM25)
    record = json.loads((tmp_path / "a" / "result.json").read_text())
    figures = record["metrics"]["test"]
    names = ("recall@1", "recall@5", "recall@10", "recall_sum")
    expected = [f"{figures[name]:.1f}" for name in names] + ["[1.2, 2.8]"]
    for form, cut in (
        ("terminal", lambda line: re.split(r"  +", line)),
        ("markdown", lambda line: line.strip("| ").split(" | ")),
        ("html", lambda line: re.findall(r">([^<>]*)</t[dh]>", line)),
    ):
        command = [str(tmp_path), "--table=photochat_retrieval", f"--format={form}"]
        assert report.run(command) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if "Ours" in x and "real" in x]
        assert cut(line)[2:7] == expected, form


def test_of_folds_the_note_says_what_chance_would_give(tmp_path, ranks):
    test = {"observed": 25.8, "chance": 13.77, "p_value": 0.0001, "permutations": 9999}
    how = {"permutation_test": {"recall@10": test}}
    write_result(tmp_path / "a", "Folds", ranks, cross_validation=how)
    (note,) = [note for note in table(tmp_path).notes if note.startswith("Folds")]
    assert "R@10 of 25.8 against 13.8 by chance, p = 0.0001" in note
    write_result(tmp_path / "b", "Broken", ranks, cross_validation={"permutation_test": {}})
    with pytest.raises(UserError, match=r"cross_validation\.permutation_test"):
        table(tmp_path)


def test_a_clear_difference_has_a_winner_and_a_small_one_none(tmp_path, ranks):
    write_result(tmp_path / "a" / "good", "Good", ranks // 2)
    write_result(tmp_path / "a" / "plain", "Plain", ranks)
    made = table(tmp_path / "a")
    assert [row[0] for row in made.rows if report.WINNER in row[0]] == [f"Good {report.WINNER}"]
    nearly = ranks.copy()
    hit = np.flatnonzero(ranks == 10)[0]
    nearly[hit] = 9  # one query of 400 enters the top 10
    write_result(tmp_path / "b" / "nearly", "Nearly", nearly)
    write_result(tmp_path / "b" / "plain", "Plain", ranks)
    made = table(tmp_path / "b")
    assert not any(report.WINNER in row[0] for row in made.rows)
    assert any("includes 0" in note for note in made.notes)


@pytest.mark.parametrize(
    "case", ["alone", "other dataset", "other folder", "other queries", "no figures"]
)
def test_no_winner_without_a_runner_up_on_the_same_queries(tmp_path, ranks, case):
    write_result(tmp_path / "good", "Good", ranks // 4)
    if case == "other dataset":
        write_result(tmp_path / "plain", "Plain", ranks, dataset="photochat/demo")
    if case == "other folder":  # whose dialogues may be numbered alike
        write_result(tmp_path / "plain", "Plain", ranks, config={"data": {"manual_dir": "mine"}})
    if case == "other queries":
        write_result(tmp_path / "plain", "Plain", ranks[:-1])
    if case == "no figures":
        write_result(tmp_path / "plain", "Plain", ranks)
        (tmp_path / "plain" / "per_example.json").unlink()
    made = table(tmp_path)
    assert not any(report.WINNER in row[0] for row in made.rows)
    why = {"other queries": "not asked the same queries", "no figures": "per query are missing"}
    assert [note for note in made.notes if "No winner" in note and why.get(case, "") in note] == [
        note for note in made.notes if "No winner" in note
    ]
    assert any("No winner" in note for note in made.notes) == (case in why)


def test_runs_pair_by_their_queries_however_their_data_were_read(tmp_path, ranks):
    for k, name in enumerate(("Best", "Better", "Plain", "Plain too")):
        write_result(tmp_path / name, name, ranks // (4 - k), splits=("dev", "test"))
        spoil(tmp_path / name, dataset={"name": RELEASE, "fingerprint": str(k % 2), "sizes": {}})
    results = read_results([str(tmp_path)])
    for name in ("photochat_retrieval", "photochat_study"):
        made = report.make_report(load_table(name), results)
        assert [row[0] for row in made.rows if report.WINNER in row[0]] == [f"Best {report.WINNER}"]
        (note,) = [note for note in made.notes if "paired" in note]
        assert "Best against Better on" in note


def test_each_section_has_a_winner_of_its_own(tmp_path, ranks):
    for k, name in enumerate(("Good", "Plain")):
        write_result(tmp_path / name, name, ranks // (2 - k))
        write_result(tmp_path / f"{name}_", f"{name} demo", ranks // (2 - k), dataset="demo")
        write_result(tmp_path / f"{name}__", f"{name} own", ranks * (1 + k), dataset="own")
    made = table(tmp_path)
    marked = [[r.cells[0] for r in s.rows if report.WINNER in r.cells[0]] for s in made.sections]
    assert marked == [[f"Good {report.WINNER}"], [f"Good demo {report.WINNER}"]]


def figures(made):
    """Difference and bounds in the note on the winner."""
    note = next(note for note in made.notes if "paired" in note)
    return [float(x) for x in re.findall(r"[+-]\d+\.\d", note)]


def test_pairs_are_made_by_id_and_not_by_place(tmp_path, ranks):
    write_result(tmp_path / "a", "A", ranks)
    write_result(tmp_path / "b", "B", np.maximum(ranks - 1, 0))
    first = table(tmp_path)
    path = tmp_path / "b" / "per_example.json"
    rows = json.loads(path.read_text())["test"]
    order = np.random.default_rng(1).permutation(len(ranks))
    path.write_text(json.dumps({"test": {k: [v[i] for i in order] for k, v in rows.items()}}))
    shuffled = table(tmp_path)
    assert any(report.WINNER in row[0] for row in first.rows)

    assert any(report.WINNER in row[0] for row in shuffled.rows)
    # The same differences in another order: only the draws change.
    np.testing.assert_allclose(figures(shuffled), figures(first), atol=0.5)


def test_a_run_that_never_looked_at_test_is_named_and_left_out(tmp_path, ranks):
    write_result(tmp_path / "a", "Ours", ranks)
    write_result(tmp_path / "still_choosing", "Other", ranks, splits=("dev",))
    made = table(tmp_path)
    assert not any(row[0] == "Other" for row in made.rows)
    assert "still_choosing" in made.notes[-1]


def test_choices_on_dev_have_a_table_that_looks_at_dev_alone(tmp_path, ranks):
    ours = write_result(tmp_path / "a", "Ours", ranks, splits=("dev",))
    marked = {"task": {"candidate": "labels", "query": "marked"}}
    write_result(tmp_path / "b", "Marked", ranks // 2, splits=("dev",), config=marked)
    results = read_results([str(tmp_path)])
    made = report.make_report(load_table("photochat_study"), results)
    assert [row[0].split(" ")[0] for row in made.rows] == ["Marked", "Ours"]
    assert all(len(row) == len(made.columns) for row in made.rows)
    assert "dev sum" not in made.columns
    assert cells(made, "Ours")["sum"] == f"{ours['recall_sum']:.1f}"
    assert cells(made, "Marked")["measured on"].endswith("both speakers ask, marked")


def test_a_reranker_stands_beside_the_retrievers(tmp_path, ranks):
    write_result(tmp_path / "a", "Retriever", ranks)
    write_result(tmp_path / "b", "Reranker", ranks // 2, task="rerank")
    made = table(tmp_path)
    assert {"Retriever", "Reranker"} <= {row[0].split(f" {report.WINNER}")[0] for row in made.rows}


def spoil(folder, **changes):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"label": None}, "label is missing"),
        ({"dataset": {"name": RELEASE}}, "dataset.fingerprint is missing"),
        ({"wall_seconds": "long"}, "wall_seconds"),
        ({"metrics": {"test": {"recall@1": "good"}}}, "metrics.test.recall@1"),
        ({"metrics": {"test": {"recall@1": 3.0}}}, "metrics.test.recall@5"),
        ({"intervals": {"test": {"recall_sum": [1.0]}}}, "intervals.test.recall_sum"),
        ({"task": "summary"}, "retrieval"),
        ({"parents": "runs/coco"}, "parents is"),
        ({"parents": [{"kind": "init_from", "config": "none"}]}, r"parents\.config is"),
        ({"parents": [{"parents": [7]}]}, r"parents\.parents is"),
    ],
)
def test_a_bad_result_is_refused_with_file_and_key(tmp_path, ranks, changes, message):
    write_result(tmp_path / "a", "Ours", ranks)
    spoil(tmp_path / "a", **changes)
    with pytest.raises(UserError, match=message):
        table(tmp_path)


def test_figures_per_query_of_another_run_are_refused(tmp_path, ranks):
    write_result(tmp_path / "a", "A", ranks)
    write_result(tmp_path / "b", "B", ranks // 2)
    source = (tmp_path / "a" / "per_example.json").read_text()
    (tmp_path / "b" / "per_example.json").write_text(source)
    with pytest.raises(UserError, match="per query"):
        table(tmp_path)
    (tmp_path / "b" / "per_example.json").write_text('{"test": {"ids": ["q1"]}}')
    with pytest.raises(UserError, match="lists of one length"):
        table(tmp_path)


def test_missing_unreadable_and_empty_folders_end_with_one_sentence_and_code_2(tmp_path, capsys):
    command = ["--table=photochat_retrieval"]
    assert report.run([str(tmp_path / "nowhere"), *command]) == 2
    assert "No folder" in capsys.readouterr().err
    assert report.run([str(tmp_path), *command]) == 2
    assert "No result.json" in capsys.readouterr().err
    (tmp_path / "result.json").write_text("{")
    assert report.run([str(tmp_path), *command]) == 2
    error = capsys.readouterr().err
    assert "Cannot read" in error and "result.json" in error and "Traceback" not in error


def test_a_table_that_does_not_exist_is_refused_with_the_closest_name(tmp_path, ranks, capsys):
    write_result(tmp_path / "a", "Ours", ranks)
    for more in ([], ["--commands"]):
        assert report.run([str(tmp_path), "--table=photochat_retrival", *more]) == 2
        error = capsys.readouterr().err
        assert 'did you mean "photochat_retrieval"?' in error and error.count("\n") == 1


def test_a_terminal_gets_aligned_text_and_a_file_markdown(tmp_path, ranks, capsys, monkeypatch):
    write_result(tmp_path / "a", "Ours", ranks)
    command = [str(tmp_path), "--table=photochat_retrieval"]
    assert report.run(command) == 0
    assert "| Ours |" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert report.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    heading, rows = lines[2], [line for line in lines if "  published " in line]
    assert len(rows) == 11
    for line in rows:
        assert line.index("published") == heading.index("measured on")
        assert re.fullmatch(r" *\d+\.\d", line[: heading.index("R@1") + 3].rpartition("  ")[2])


def test_without_folders_the_results_here_are_read(tmp_path, ranks, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.run(["--table=photochat_retrieval"]) == 2
    assert "No folder results" in capsys.readouterr().err
    write_result(tmp_path / "results" / "a", "Ours", ranks)
    assert report.run(["--table=photochat_retrieval"]) == 0
    assert "Ours" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["terminal", "markdown", "html"])
def test_every_format_holds_every_row_and_escapes_labels(tmp_path, ranks, capsys, name):
    write_result(tmp_path / "a", "Ours <b> | x", ranks)
    write_result(tmp_path / "b", "<script>", ranks, dataset="<i>&\"'")
    assert report.run([str(tmp_path), "--table=photochat_retrieval", f"--format={name}"]) == 0
    text = capsys.readouterr().out
    assert "stand-in" in text
    for model in ("SCAN, MH", "BM25", "Ours"):
        assert model in text
    if name == "markdown":
        assert r"<b> \| x" in text
        widths = {line.replace(r"\|", "").count("|") for line in text.splitlines() if "|" in line}
        assert widths == {11}
        assert text.count("| --- | --- |") == 2  # a table of its own for other data
    if name == "html":
        assert "&lt;b&gt;" in text and "&lt;script&gt;" in text
        assert not {"script", "i", "b", "img"} & set(re.findall(r"<(\w+)", text))


def test_the_page_is_a_whole_table_that_lets_nothing_in(tmp_path, ranks, capsys):
    write_result(tmp_path / "a", "Ours", ranks)
    write_result(tmp_path / "b", "Demo", ranks, dataset="photochat/demo")
    assert report.run([str(tmp_path), "--table=photochat_retrieval", "--format=html"]) == 0
    text = capsys.readouterr().out
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)

    class Reader(HTMLParser):
        rows: ClassVar[list] = []
        opened: ClassVar[list] = []

        def handle_starttag(self, tag, attributes):
            if tag == "tr":
                self.rows.append([])
            if tag in ("td", "th"):
                assert tag == "td" or dict(attributes)["scope"] in ("col", "row", "rowgroup")
                self.rows[-1].append(int(dict(attributes).get("colspan", 1)))
            if tag not in ("meta",):
                self.opened.append(tag)

        def handle_endtag(self, tag):
            assert self.opened.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert reader.opened == [] and len(reader.rows) == 1 + 11 + 1 + 1 + 1
    assert {sum(row) for row in reader.rows} == {10}


def test_the_update_of_a_document_touches_only_its_table_and_is_idempotent(tmp_path, ranks):
    write_result(tmp_path / "a", r"Ours \1", ranks)
    readme = tmp_path / "README.md"
    start, end = "<!-- report:photochat_retrieval -->", "<!-- /report -->"
    other = f"<!-- report:other -->\nkept\n{end}"
    readme.write_text(f"# Title\n\n{start}\nold\n{end}\n\ntext\n{other}\n")
    command = [str(tmp_path), "--table=photochat_retrieval", f"--update={readme}"]
    assert report.run(command) == 0
    once = readme.read_text()
    assert once.startswith(f"# Title\n\n{start}\n**") and once.endswith(f"{end}\n\ntext\n{other}\n")
    assert "old" not in once and r"Ours \1" in once and "SCAN, MH" in once
    assert report.run(command) == 0
    assert readme.read_text() == once
    write_result(tmp_path / "b", "Later", ranks)
    assert report.run(command) == 0
    assert "Later" in readme.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- report:photochat_retrieval -->\nno end",
        "<!-- report:photochat_retrieval -->\n<!-- report:other -->\nx\n<!-- /report -->",
        "<!-- report:photochat_retrieval -->\n<!-- /report -->\n" * 2,
    ],
)
def test_a_document_without_its_pair_of_markers_is_refused_and_untouched(
    tmp_path, ranks, capsys, text
):
    write_result(tmp_path / "a", "Ours", ranks)
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert report.run([str(tmp_path), "--table=photochat_retrieval", f"--update={readme}"]) == 2
    assert "report:photochat_retrieval" in capsys.readouterr().err
    assert readme.read_text() == text


def write_intent(folder, label, wrong, **changes):
    """A run over 200 dialogues of 5 turns, the last positive; `wrong` turns are decided wrongly."""
    folder.mkdir(parents=True)
    ids = [f"d{d}#{t}" for d in range(200) for t in range(5)]
    truth = np.tile([0, 0, 0, 0, 1], 200)
    probability = np.where(truth == 1, 0.9, 0.1)
    probability[wrong] = 1 - probability[wrong]
    f1 = 100 * f1_score(truth, probability > 0.5)
    metrics = {"precision": 1.0, "recall": 2.0, "f1": f1, "f1@threshold": 3.0}
    metrics["average_precision"] = 4.0
    write_result(folder.parent / f"{folder.name}_", label, np.arange(5))
    record = json.loads((folder.parent / f"{folder.name}_" / "result.json").read_text())
    shutil.rmtree(folder.parent / f"{folder.name}_")
    record |= {"task": "intent", "metrics": {"test": metrics, "dev": metrics}}
    intervals = {"f1": [1.25, 2.75], "f1@threshold": [2.5, 3.5]}
    record |= {"intervals": {"test": intervals}} | changes
    rows = {"ids": ids, "label": truth.tolist(), "probability": probability.tolist()}
    rows["dialogue"] = np.repeat(np.arange(200), 5).tolist()
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "per_example.json").write_text(json.dumps({"test": rows}))


def test_the_table_of_another_task_has_its_own_figures_and_pairs(tmp_path):
    write_intent(tmp_path / "a", "Good", np.arange(0, 1000, 31))
    write_intent(tmp_path / "b", "Bad", np.arange(0, 1000, 7))
    made = report.make_report(load_table("photochat_intent"), read_results([str(tmp_path)]))
    assert [row[0] for row in made.rows][:2] == [f"Good {report.WINNER}", "Bad"]
    row = cells(made, "Good")
    assert (row["P"], row["R"], row["F1 at dev's threshold"], row["AP"]) == (
        "1.0", "2.0", "3.0 [2.5, 3.5]", "4.0",
    )  # fmt: skip
    assert row["95 % of F1"] == "[1.2, 2.8]" and row["dev F1"] == row["F1"]
    published = cells(made, "T5-base")
    assert (published["P"], published["R"], published["F1"]) == ("58.2", "57.9", "58.1")
    assert published["AP"] == ""
    (note,) = [note for note in made.notes if note.startswith(report.WINNER)]
    first, second = (float(cells(made, x)["F1"]) for x in ("Good", "Bad"))
    difference, low, high = (float(x) for x in re.findall(r"[+-]\d+\.\d", note))
    assert difference == pytest.approx(first - second, abs=0.11) and 0 < low < difference < high
