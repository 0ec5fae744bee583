"""Published tables: their figures, and commands that measure the rows that they stand for."""

from __future__ import annotations

import ast
import importlib
import json
import shlex
from pathlib import Path

import pytest

from configs import retrieval
from mmjax import report
from mmjax.config import to_dict
from mmjax.errors import UserError
from mmjax.figures import FIGURES
from mmjax.published.tables import PublishedRow, load_table, table_names
from mmjax.results import read_results

RETRIEVAL, INTENT = load_table("photochat_retrieval"), load_table("photochat_intent")


@pytest.mark.parametrize("name", table_names())
def test_every_table_is_whole(name):
    table = load_table(name)
    figures = FIGURES[table.figures or table.task]
    assert len({row.name for row in table.rows}) == len(table.rows)
    assert bool(table.rows) == bool(table.source)
    for row in table.rows:
        assert figures.chief_metric in row.figures
        assert set(row.figures) <= set(figures.columns.values())
        assert row.commands and row.match


def test_the_figures_are_those_of_the_papers():
    rows = {row.label: list(row.figures.values()) for row in RETRIEVAL.rows}
    assert rows == {
        "BM25": [6.6, 15.4, 23.0, 45.0],
        "DE_label (BERT-base), CE": [6.7, 22.1, 31.2, 60.0],
        "DE_img (ResNet-50), CE": [6.7, 21.9, 32.3, 60.9],
        "DE_img (ResNet-152), CE": [6.8, 24.0, 34.3, 65.1],
        "DE (ResNet-152, BERT-base), CE": [8.1, 23.7, 34.6, 66.4],
        "DE* (ResNet-152, BERT-base), SH": [8.0, 22.0, 31.0, 61.0],
        "DE* (ResNet-152, BERT-tiny), SH": [7.1, 23.3, 33.0, 63.4],
        "DE* (ResNet-152, BERT-base), CE": [8.5, 26.1, 35.3, 69.9],
        "DE* (ResNet-152, BERT-tiny), CE": [9.0, 26.4, 35.7, 71.1],
        "VSE++, MH": [10.2, 25.4, 34.2, 69.8],
        "SCAN, MH": [10.4, 27.0, 37.1, 74.5],
    }


def configured(command: str) -> tuple[dict, str]:
    """The config that a command line gives, read as its flags are, and its working directory."""
    arguments = dict(word.split("=", 1) for word in shlex.split(command))
    file, _, variant = arguments.pop("--config").partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    workdir = arguments.pop("--workdir")
    with module.get_config(variant).unlocked() as config:
        for flag, text in arguments.items():
            *sections, key = flag.removeprefix("--config.").split(".")
            place = config
            for name in sections:
                place = place[name]
            assert key in place, flag
            try:
                place[key] = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                place[key] = text
    return to_dict(config), workdir


def parents(made: list[tuple[dict, str]]) -> list[dict]:
    """What the result of a run says that was started from the last of these runs."""
    found = []
    for config, _ in made:
        weights = {"kind": "weights", "name": "folder", "sha256": ""}
        about = {"config": config, "parents": [weights, *found]}
        found = [{"kind": "init_from", "name": "artifact", "sha256": "", **about}]
    return found


def measured_by(table, config: dict, started_from: list[dict]) -> list[str]:
    return [row.name for row in table.rows if row.is_run_of(config, started_from)]


@pytest.mark.parametrize(
    ("table", "row"),
    [(table, row) for table in (RETRIEVAL, INTENT) for row in table.rows],
    ids=lambda x: x.name,
)
def test_the_commands_of_a_row_run_its_model_and_no_other_row_s(table, row):
    made = [configured(command) for command in row.commands]
    *before, (config, workdir) = made
    assert measured_by(table, config, parents(before)) == [row.name], config
    assert config["task_name"] == table.task and config["data"]["dataset"] == "photochat"
    assert workdir.endswith(f"/{row.name}")
    # A stage starts from the one before it, which is pre-trained on captions and no row itself.
    folders = [folder for _, folder in before]
    started = [c["train"]["init_from"] for c, _ in made[1:]]
    assert started == [f"run://{folder}" for folder in folders]
    assert all(c["data"]["dataset"] == "coco_captions" for c, _ in before)


@pytest.mark.parametrize(
    ("table", "row"),
    [(t, row) for t in map(load_table, ("jddc21_response", "jddc21_rewrite")) for row in t.rows],
    ids=lambda x: x.name,
)
def test_the_last_command_of_a_row_that_writes_is_its_run_and_no_other_row_s(table, row):
    config, workdir = configured(row.commands[-1])
    assert [r.name for r in table.rows if r.is_run_of(config)] == [row.name]
    assert config["task_name"] == table.task
    assert workdir.endswith(f"/{table.name}/{row.name}")


def test_a_model_of_regions_is_told_where_they_are():
    configs = [configured(command)[0] for row in RETRIEVAL.rows for command in row.commands]
    reading = [c for c in configs if c["task"].get("candidate") == "regions"]
    assert [c["data"]["regions"] for c in reading] == ["COCO_REGIONS", "REGIONS"]


# Of a run -> rows of which it is then no run; "*": of every row with such a key.
CHANGES = {
    ("data.pixels", "shuffled"): "*",
    ("task.query", "marked"): "*",
    ("task.loss", "sigmoid"): "*",
    ("train.init_from", "run://runs/own"): "de_label de_img_resnet50 de_img_resnet152 de",
    ("train.init_from", None): "de_star vsepp scan",
    ("model.text", "minilm-l6"): "*",
    ("model.image", "resnet-18"): "de_img de_star vsepp de",
    ("model.labels", "minilm-l6"): "de_star de",
    ("model.weights", None): "de_label de_img de",  # from scratch
    ("model.image_weights", None): "de_img de",
    ("model.shared", True): "de_label de_img de_star de",
    ("model.kind", "other"): "*",
    ("model.batch_norm", "frozen"): "vsepp",  # whose last stages train the ResNet too
    ("task.candidate", "boxes"): "*",
    ("model.scan.direction", "i-t"): "scan",
    ("model.scan.pooling", "lse"): "scan",
    ("task_name", "rerank"): "*",
}
# The same of the first of its stages.
CHANGES_BEFORE = {
    ("data.dataset", "photo_folder"): "*",  # a folder may hold any photos
    ("data.dataset", "photochat"): "*",
    ("data.pixels", "shuffled"): "*",
    ("task.loss", "sigmoid"): "*",
    ("task.candidate", "boxes"): "*",
    ("train.init_from", "run://runs/own"): "*",
    ("model.text", "minilm-l6"): "*",
    ("model.image", "resnet-18"): "de_star vsepp",
    ("model.labels", "minilm-l6"): "de_star",
    ("model.weights", None): "de_star",
    ("model.label_weights", None): "de_star_tiny",
    ("model.image_weights", None): "de_star vsepp",
    ("model.scan.direction", "i-t"): "scan",
}
NETWORKS = [row for row in RETRIEVAL.rows if row.name != "bm25"]


def concerned(names: str) -> list[PublishedRow]:
    """`de`: that row; a longer name: all that begin with it."""
    starts = tuple(name for name in names.split() if name != "de")
    return [
        row
        for row in NETWORKS
        if names == "*"
        or (bool(starts) and row.name.startswith(starts))
        or ("de" in names.split() and row.name == "de")
    ]


def changed(config: dict, key: str, value) -> None:
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    assert config[name] != value
    config[name] = value


@pytest.mark.parametrize(
    ("row", "change"),
    [(row, change) for change, names in CHANGES.items() for row in concerned(names)],
    ids=lambda x: x.name if isinstance(x, PublishedRow) else f"{x[0]}={x[1]}",
)
def test_another_model_loss_encoder_or_input_is_no_run_of_the_row(row, change):
    *before, (config, _) = map(configured, row.commands)
    changed(config, *change)
    assert not row.is_run_of(config, parents(before))


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (row, change)
        for change, names in CHANGES_BEFORE.items()
        for row in concerned(names)
        if len(row.commands) > 1
    ],
    ids=lambda x: x.name if isinstance(x, PublishedRow) else f"{x[0]}={x[1]}",
)
def test_another_training_before_is_no_run_of_the_row(row, change):
    *before, (config, _) = map(configured, row.commands)
    assert row.is_run_of(config, parents(before))
    changed(before[0][0], *change)
    assert not row.is_run_of(config, parents(before))


@pytest.mark.parametrize("row", [row for row in NETWORKS if row.stages], ids=lambda row: row.name)
def test_a_run_of_which_it_is_not_kept_what_it_learned_before_is_in_no_row(row):
    *before, (config, _) = map(configured, row.commands)
    (last,) = parents(before)
    told = {key: last[key] for key in ("kind", "name", "sha256")}  # as results were once
    for started_from in ([], [told], [{**last, "kind": "weights"}], parents([*before, *before])):
        assert measured_by(RETRIEVAL, config, started_from) == []


def test_a_row_without_a_match_has_no_runs():
    assert not PublishedRow("x", "X", None, {}).is_run_of({"system": "bm25"})


def test_a_table_is_no_single_run():
    with pytest.raises(UserError) as error:
        retrieval.get_config("table4")
    assert str(error.value).startswith("configs/retrieval.py:table4 is a table of 11 rows")
    assert "python -m mmjax.report --table=photochat_retrieval --commands" in str(error.value)


def test_a_table_tells_model_loss_encoders_and_commands_of_every_row():
    with pytest.raises(UserError) as error:
        retrieval.get_config("table4")
    lines = str(error.value).splitlines()
    for row in RETRIEVAL.rows:
        place = lines.index(f"# {row.label}; {row.encoders}")
        told = [f"python -m mmjax.main {command}" for command in row.commands]
        assert lines[place + 1 : place + 1 + len(told)] == told
    for row in NETWORKS:
        text, *photo = row.encoders.split(" for the dialogue, ")
        assert ("GRU" in text) == (row.match["model.text"] == "gru") and photo
        for key, words in (("resnet-50", "ResNet-50 "), ("resnet-152", "ResNet-152 ")):
            assert (row.match.get("model.image") == key) == (words in row.encoders)


def test_results_kept_here_are_in_the_rows_that_they_are_of():
    results = read_results([str(Path(__file__).parents[2] / "results")])
    home = [r for r in results if r.dataset["name"] == RETRIEVAL.dataset]
    found = {r.label: measured_by(RETRIEVAL, r.config, r.parents) for r in home}
    assert found.pop("BM25") == ["bm25"] and found  # MiniLM is in no row of the paper
    assert not any(found.values())


def listed(capsys, *arguments):
    assert report.run(["--table=photochat_retrieval", "--commands", *arguments]) == 0
    return capsys.readouterr().out


def test_without_results_the_commands_of_every_row_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = listed(capsys)
    for row in RETRIEVAL.rows:
        assert f"# {row.label}; {row.encoders}\n" in text
        for command in row.commands:
            assert f"\npython -m mmjax.main {command}\n" in f"{text}\n"
    head = text.split("\n\n")[0].splitlines()
    assert [line.split(":")[0] for line in head] == [
        "# coco_captions",
        "# COCO_REGIONS",
        "# REGIONS",
    ]


def write(folder, config, dataset="photochat/release", split="test"):
    folder.mkdir(parents=True)
    metrics = {"recall@1": 1.0, "recall@5": 2.0, "recall@10": 3.0, "recall_sum": 6.0}
    record = {
        **dict.fromkeys(("name", "label", "command", "system"), "x"),
        **dict.fromkeys(("format_version", "wall_seconds", "steps", "test_looks"), 1),
        "intervals": {},
        "versions": {},
        "task": "retrieval",
        "metrics": {split: metrics},
        "config": config,
        "dataset": {"name": dataset, "fingerprint": "f", "sizes": {split: 3}},
        "device": {"kind": "cpu", "count": 1, "processes": 1, "machine": "m"},
    }
    (folder / "result.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("where", "measured"),
    [({}, True), ({"dataset": "photochat/demo"}, False), ({"split": "dev"}, False)],
)
def test_a_measured_row_needs_no_command_unless_it_was_on_other_data(
    tmp_path, capsys, where, measured
):
    write(tmp_path / "a", {"system": "bm25", "task": {"query": "both"}}, **where)
    text = listed(capsys, str(tmp_path))
    assert ("# BM25;" not in text) == measured
    assert "# SCAN, MH;" in text


def test_when_all_is_measured_nothing_is_left_to_run():
    class Made:
        parents = ()
        task, dataset, metrics = "intent", {"name": INTENT.dataset}, {"test": {}}

        def __init__(self, row):
            self.config, _ = configured(row.commands[-1])

    made = [Made(row) for row in INTENT.rows]
    assert report.commands(INTENT, made) == "# every published row of photochat_intent is measured"
    assert "T5-3B" in report.commands(INTENT, made[:3])
