"""The command line as a user meets it: one sentence for a mistake, and a run from start to end."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmjax.data.sources import open_dataset
from mmjax.observe.metrics_log import read_metrics
from mmjax.results import read_result
from mmjax.tasks.intent_examples import answer as intent_answer
from mmjax.tasks.intent_examples import turns_before_share

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = "--config=configs/retrieval.py:demo"
TINY = (
    "--config.model.vocab_size=400",
    "--config.model.joint_dim=32",
    "--config.task.query_max_length=32",
    "--config.train.total_epochs=None",
    "--config.train.total_steps=4",
    "--config.train.global_batch_size=16",
    "--config.eval.every_epochs=None",
    "--config.eval.every_steps=2",
    "--config.observe.log_every_steps=1",
)
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def said(self) -> list[str]:
        """Lines on stderr that are no dated lines of the log, nor a table's continuation of one."""
        return [line for line in self.err.splitlines() if line.startswith("mmjax: ")]


def mmjax(*arguments: str, devices: int = 1) -> Outcome:
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    env["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(
        [sys.executable, "-m", "mmjax.main", *arguments],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return f"--config.data.data_dir={tmp_path_factory.mktemp('data')}"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run of the shrunk demo: (working directory, its outcome)."""
    workdir = tmp_path_factory.mktemp("runs") / "demo"
    return workdir, mmjax(DEMO, *TINY, data, f"--workdir={workdir}")


# Mistakes

MISTAKES = {
    "no config": ((), r"--config=FILE is missing"),
    "no such config": (("--config=configs/retreival.py",), r"configs/retreival\.py.*no such file"),
    "unknown variant": (("--config=configs/retrieval.py:dmo",), r"'dmo'.*did you mean \"demo\""),
    "unknown key": (
        (DEMO, "--config.train.total_step=3"),
        r'config\.train\.total_step does not exist \(did you mean "total_steps"\?\)',
    ),
    "unknown flag": ((DEMO, "--wrkdir=x"), r"wrkdir"),
    "stray argument": ((DEMO, "train"), r"unexpected argument 'train'"),
    "wrong type": ((DEMO, "--config.train.global_batch_size=many"), r"global_batch_size.*'many'"),
    "wrong type of a key that may be None": (
        (DEMO, "--config.train.total_steps=many"),
        r"config\.train\.total_steps='many' is of type str, not int",
    ),
    "two durations": (
        (DEMO, "--config.train.total_steps=3", "DATA"),
        r"config\.train\.total_steps and config\.train\.total_epochs are both set",
    ),
    "outside the limits": (
        (DEMO, "--config.train.global_batch_size=0"),
        r"config\.train\.global_batch_size=0 must be at least 1",
    ),
    "unknown metric": (
        (DEMO, "--config.eval.metric=recall"),
        r"eval\.metric='recall' is no metric",
    ),
    "unknown dataset": (
        (DEMO, "--config.data.dataset=photochta", "DATA"),
        r"photochta.*did you mean 'photochat'",
    ),
    "no manual folder": (
        ("--config=configs/retrieval.py:model=bm25", "--config.data.manual_dir=NOWHERE", "DATA"),
        r"NOWHERE",
    ),
    "batch that does not divide": (
        (DEMO, *TINY, "--config.train.global_batch_size=12", "DATA", "EIGHT"),
        r"a batch of 12 does not divide among 8 devices",
    ),
    "evaluation batch that does not divide": (
        (DEMO, *TINY, "--config.eval.batch_size=12", "EIGHT"),
        r"a batch of 12 does not divide among 8 devices.*config\.eval\.batch_size",
    ),
    "mesh that does not fit": (
        (DEMO, "--config.mesh.data=3"),
        r"config\.mesh \(data=3, fsdp=1, tensor=1\) does not match 1 devices",
    ),
    "no weights folder": (
        ("--config=configs/retrieval.py:text=minilm,weights=NOWHERE/folder",),
        r"NOWHERE/folder",
    ),
    "weights folder without weights": (
        ("--config=configs/retrieval.py:text=minilm,weights=EMPTY",),
        r"EMPTY",
    ),
    "nothing to evaluate": ((DEMO, *TINY, "--mode=eval", "DATA"), r"train.*--mode=train"),
    "nothing to predict with": ((DEMO, *TINY, "--mode=predict", "DATA"), r"train.*--mode=train"),
    "nothing to export": ((DEMO, *TINY, "--mode=export", "DATA"), r"train.*--mode=train"),
    "nothing that can be exported": (
        ("--config=configs/retrieval.py:model=bm25,dataset=photochat/demo", "--mode=export"),
        r"BM25 has no weights: there is nothing to export",
    ),
    "no file of intent": (
        (DEMO, *TINY, "--mode=predict", "--intent=NOWHERE.jsonl", "DATA"),
        r"NOWHERE\.jsonl cannot be read \(No such file or directory\)",
    ),
    "working directory cannot be made": (
        (DEMO, "--workdir=/proc/mmjax/run"),
        r"--workdir=/proc/mmjax/run cannot be made",
    ),
    "working directory is a file": ((DEMO, "--workdir=FILE"), r"--workdir=\S*FILE cannot be"),
}


@pytest.fixture(scope="module")
def mistakes(data, tmp_path_factory):
    """Outcome of every mistake, two at a time: a start takes seconds."""
    root = tmp_path_factory.mktemp("mistakes")
    (root / "EMPTY").mkdir()
    (root / "FILE").write_text("")

    def make(number_and_arguments):
        number, (arguments, _) = number_and_arguments
        devices = 8 if "EIGHT" in arguments else 1
        given = [data if a == "DATA" else a for a in arguments if a != "EIGHT"]
        given = [re.sub(r"\b(EMPTY|FILE|NOWHERE)\b", rf"{root}/\1", a) for a in given]
        if not any(a.startswith("--workdir") for a in given):
            given.append(f"--workdir={root / str(number)}")
        return mmjax(*given, devices=devices)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(MISTAKES, pool.map(make, enumerate(MISTAKES.values())), strict=True))


def is_one_sentence(outcome: Outcome, pattern: str) -> None:
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err + outcome.out, outcome.err
    (line,) = outcome.said()
    assert re.search(pattern, line), line
    assert outcome.err.rstrip().endswith(line)  # nothing comes after it
    assert outcome.out == ""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_one_sentence(mistakes, name):
    is_one_sentence(mistakes[name], MISTAKES[name][1])


def test_a_mistake_on_the_command_line_is_all_that_is_said(mistakes):
    for name in ("no config", "no such config", "unknown variant", "unknown key", "unknown flag"):
        assert len(mistakes[name].err.splitlines()) == 1


def test_a_mistake_leaves_no_look_at_test_and_no_claim(data, tmp_path):
    workdir = tmp_path / "run"
    outcome = mmjax(DEMO, *TINY, data, f"--workdir={workdir}", "--mode=eval", "--split=test")
    is_one_sentence(outcome, "train")
    assert not (workdir / "test_looks").exists()


def test_a_command_that_came_to_nothing_does_not_bind_the_next_one(data, tmp_path):
    here = f"--workdir={tmp_path / 'run'}"
    wrong = mmjax(DEMO, *TINY, data, here, "--config.train.init_from=run:///nowhere")
    is_one_sentence(wrong, "there is no artifact in")
    again = mmjax(DEMO, *TINY, data, here, "--config.model.batch_norm=groups")
    is_one_sentence(again, r"global_batch_size=16 does not divide")


# A run


def test_a_run_leaves_a_result_that_the_report_reads(trained):
    workdir, outcome = trained
    assert outcome.code == 0, outcome.err
    result = read_result(str(workdir / "result.json"))
    assert result.steps in (0, 2, 4) and result.test_looks == 1
    assert (
        set(result.metrics)
        == set(result.intervals)
        == set(result.per_example)
        == {
            "dev",
            "test",
        }
    )
    for split, metrics in result.metrics.items():
        low, high = result.intervals[split]["recall_sum"]
        assert low <= metrics["recall_sum"] <= high
        assert len(result.per_example[split]["ids"]) == result.dataset["sizes"][split]
        assert f"{split}:  recall@1 {metrics['recall@1']:.2f}" in outcome.out
    assert result.command.startswith(f"python -m mmjax.main {DEMO}")
    assert result.config["train"]["total_steps"] == 4
    assert [p.name for p in (workdir / "test_looks").iterdir()] == ["0000.json"]


def test_evaluating_it_gives_the_same_numbers(trained, data):
    workdir, _ = trained
    outcome = mmjax(DEMO, *TINY, data, f"--workdir={workdir}", "--mode=eval")
    assert outcome.code == 0, outcome.err
    metrics = read_result(str(workdir / "result.json")).metrics["dev"]
    assert dict(line.split() for line in outcome.out.splitlines()) == {
        f"dev/{name}": f"{value:.2f}" for name, value in metrics.items()
    }
    assert len(list((workdir / "test_looks").iterdir())) == 1


def test_predicting_with_it_writes_a_sorted_list_for_every_dialogue(trained, data, tmp_path):
    workdir, _ = trained
    intent = tmp_path / "intent.jsonl"  # as a run of intent would have left it
    told = open_dataset("photochat/demo", "dev", data_dir=data.partition("=")[2])
    chances = (
        intent_answer(d, d.id, np.full(len(turns_before_share(d)[0]), 0.123456)) for d in told
    )
    intent.write_text("".join(json.dumps(found) + "\n" for found in chances))
    outcome = mmjax(
        *(DEMO, *TINY, data, f"--workdir={workdir}", "--mode=predict", "--top=7"),
        f"--intent={intent}",
    )
    assert outcome.code == 0, outcome.err
    result = read_result(str(workdir / "result.json"))
    lines = (workdir / "predictions" / "dev.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [a["id"] for a in answers] == result.per_example["dev"]["ids"]
    page = (workdir / "predictions" / "dev.html").read_text()
    assert str(workdir / "predictions" / "dev.html") in outcome.out
    assert all(answer["id"] in page for answer in answers)
    assert page.count("0.123456") >= len(answers) and "0.123456" not in "".join(lines)
    jpeg = "/9j/"  # how every JPEG begins, in base64
    assert page.count(jpeg) >= len({a["photo"] for a in answers})
    hits = 0.0
    for answer in answers:
        scores = [found["score"] for found in answer["top"]]
        assert len(scores) == 7 and scores == sorted(scores, reverse=True)
        assert answer["query"] and answer["labels"]
        hits += answer["above"] < 1
    # Ties apart, the first place is recall@1.
    assert 100 * hits / len(answers) >= result.metrics["dev"]["recall@1"] - 1e-6


def test_a_trained_run_can_be_judged_on_blank_photos_and_not_trained_on_them(trained, data):
    workdir, _ = trained
    blank = (DEMO, *TINY, data, f"--workdir={workdir}", "--config.data.pixels=blank")
    outcome = mmjax(*blank, "--mode=eval")
    assert outcome.code == 0, outcome.err
    seen = read_result(str(workdir / "result.json")).metrics["dev"]
    found = dict(line.split() for line in outcome.out.splitlines())
    assert found["dev/mrr"] != f"{seen['mrr']:.2f}" or found["dev/recall_sum"] != (
        f"{seen['recall_sum']:.2f}"
    )
    is_one_sentence(mmjax(*blank), r"config\.data\.pixels was 'real', is 'blank'")


def test_an_audit_takes_one_input_away_after_another_and_a_look_at_test_is_entered(trained, data):
    workdir, _ = trained
    run = (DEMO, *TINY, data, f"--workdir={workdir}", "--mode=audit")
    looks = len(list((workdir / "test_looks").iterdir()))
    outcome = mmjax(*run, "--split=test", "--audit=images_blanked,labels_dropped,speakers_swapped")
    assert outcome.code == 0, outcome.err
    found = json.loads((workdir / "audit" / "test.json").read_text())
    result = read_result(str(workdir / "result.json"))
    assert found["full"] == pytest.approx(result.metrics["test"]["recall_sum"], abs=1e-3)
    assert [row["name"] for row in found["rows"]] == ["images_blanked", "labels_dropped"]
    assert {row["examples"] for row in found["rows"]} == {240}
    assert set(found["skipped"]) == {"speakers_swapped"}  # both speakers' turns are read
    assert outcome.out == (workdir / "audit" / "test.md").read_text()
    assert found["verdict"] in outcome.out
    assert len(list((workdir / "test_looks").iterdir())) == looks + 1
    is_one_sentence(mmjax(*run, "--audit=label_dropped"), r'did you mean "labels_dropped"\?')


def test_a_second_stage_takes_what_fits_and_names_the_rest(trained, data, tmp_path):
    workdir, _ = trained
    config = f"{DEMO},model=de_img,init_from=run://{workdir}"
    outcome = mmjax(
        config, *TINY, data, f"--workdir={tmp_path / 'run'}", "--config.train.total_steps=1"
    )
    assert outcome.code == 0, outcome.err
    assert re.search(
        r"other shape +1  params/photo_head/kernel \(256, 32\) -> \(128, 32\)", outcome.err
    )
    assert re.search(r"left over +\d+  params/label_tower/", outcome.err)
    first, second = ((p / "preprocessing" / "tokenizer.model") for p in (workdir, tmp_path / "run"))
    assert first.read_bytes() == second.read_bytes()
    parents = json.loads((tmp_path / "run" / "result.json").read_text())["parents"]
    assert [parent["kind"] for parent in parents] == ["init_from"] and parents[0]["sha256"]
    assert parents[0]["config"] == json.loads((workdir / "result.json").read_text())["config"]


def test_what_is_said_after_a_share_teaches_and_is_answered_by_nobody(data, tmp_path):
    run = (f"{DEMO},model=de_label", *TINY, data, f"--workdir={tmp_path / 'run'}")
    run += ("--config.task.after=True", "--config.train.total_steps=1")
    outcome = mmjax(*run)
    assert outcome.code == 0, outcome.err
    told = open_dataset("photochat/demo", "train", data_dir=data.partition("=")[2])
    sizes = read_result(str(tmp_path / "run" / "result.json")).dataset["sizes"]
    assert len(told) < sizes["train"] <= 2 * len(told)
    outcome = mmjax(*run, "--mode=predict", "--split=train", "--top=1")
    assert outcome.code == 0, outcome.err
    lines = (tmp_path / "run" / "predictions" / "train.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} <= {d.id for d in told}


def test_the_same_command_again_trains_nothing_anew(trained, data):
    workdir, _ = trained
    before = read_result(str(workdir / "result.json"))
    outcome = mmjax(DEMO, *TINY, data, f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    after = read_result(str(workdir / "result.json"))
    assert after.metrics == before.metrics and after.steps == before.steps
    assert after.test_looks == len(list((workdir / "test_looks").iterdir()))
    lines = read_metrics(workdir / "metrics")
    assert [line["step"] for line in lines if "train/loss" in line["values"]] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "dev/recall_sum" in line["values"]] == [0, 2, 4]


def test_another_run_in_its_directory_is_refused_and_the_difference_named(trained, data):
    workdir, _ = trained
    outcome = mmjax(DEMO, *TINY, data, f"--workdir={workdir}", "--config.model.joint_dim=16")
    is_one_sentence(outcome, r"holds another run \(config\.model\.joint_dim was 32, is 16\)")


def test_a_checkpoint_of_another_model_is_refused_and_the_difference_named(trained, data, tmp_path):
    for name in ("checkpoints", "best"):
        shutil.copytree(trained[0] / name, tmp_path / "run" / name)
    outcome = mmjax(
        DEMO, *TINY, data, f"--workdir={tmp_path / 'run'}", "--config.model.joint_dim=16"
    )
    is_one_sentence(outcome, r"is of another model: \S*photo_head/bias is shape \(32,\)")


def test_a_second_run_in_a_busy_directory_is_refused(trained, data):
    workdir, _ = trained
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = mmjax(DEMO, *TINY, data, f"--workdir={workdir}")
    is_one_sentence(outcome, r"another run is working in")
