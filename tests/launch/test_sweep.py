"""Sweeps: each variant once, the same command goes on, and a table at the end."""

from __future__ import annotations

import json
import shlex

import pytest

from launch import sweep
from launch.variants import read_sweep
from mmjax import report
from mmjax.errors import UserError

MAIN = """
import json, os, signal, sys
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
os.makedirs(flags["workdir"], exist_ok=True)
open(os.path.join(flags["workdir"], "calls"), "a").write("x")
if os.path.exists("interrupt"):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getppid(), signal.SIGTERM)
    signal.sigwait([signal.SIGTERM])
    sys.exit(75)
if flags.get("config.fails") == "True" and not os.path.exists("mended"):
    sys.exit(2)
open(os.path.join(flags["workdir"], "result.json"), "w").write("{}")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in which `mmjax.main` is a stand-in; `project.tables` is what was compared."""
    (tmp_path / "mmjax").mkdir()
    (tmp_path / "mmjax" / "__init__.py").touch()
    (tmp_path / "mmjax" / "main.py").write_text(MAIN)
    monkeypatch.chdir(tmp_path)
    variants = {"a": ["--config.x=1"], "b": ["--config.fails=True"], "c": []}
    record = {"config": "c.py:demo", "table": "demo_retrieval", "variants": variants}
    (tmp_path / "s.json").write_text(json.dumps(record))
    return tmp_path


@pytest.fixture
def tables(monkeypatch):
    """The arguments of the reports that were asked for."""
    asked = []
    monkeypatch.setattr(report, "run", asked.append)
    return asked


def calls(project, name):
    file = project / "r" / name / "calls"
    return len(file.read_text()) if file.exists() else 0


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_is_finished_is_not_run_again(project, tables, launched, jobs):
    argv = ["--sweep=s.json", "--workdir=r", f"--jobs={jobs}"]
    code, _, said = launched(sweep, argv)
    assert code == 2  # that of the one that failed, and the others went on
    assert "b: not finished (exit code 2)" in said
    assert [calls(project, n) for n in "abc"] == [1, 1, 1]
    assert tables == [["r/a", "r/c", "--table=demo_retrieval"]]
    (project / "mended").touch()
    code, _, said = launched(sweep, argv)
    assert code == 0
    assert "2 of 3 variants finished" in said
    assert [calls(project, n) for n in "abc"] == [1, 2, 1]
    assert tables[1] == ["r/a", "r/b", "r/c", "--table=demo_retrieval"]


def test_a_signal_reaches_the_run_and_starts_no_other(project, tables, launched):
    (project / "interrupt").touch()
    code, _, said = launched(sweep, ["--sweep=s.json", "--workdir=r"])
    assert code == 75
    assert [calls(project, n) for n in "abc"] == [1, 0, 0]
    assert "c: not finished (not started)" in said
    assert tables == []


def test_a_sweep_that_was_interrupted_between_two_runs_is_not_done(
    project, tables, launched, monkeypatch
):
    (project / "mended").touch()
    run = sweep.Pool.run
    monkeypatch.setattr(sweep.Pool, "run", lambda self, todo: run(self, {"a": todo["a"]}))
    code, _, said = launched(sweep, ["--sweep=s.json", "--workdir=r"])
    assert (code, "b: not finished (not started)" in said) == (75, True)
    monkeypatch.setattr(sweep.Pool, "run", run)
    assert launched(sweep, ["--sweep=s.json", "--workdir=r"])[0] == 0


@pytest.mark.parametrize(
    ("target", "started", "expected"),
    [
        (["--target=slurm"], "abc", 0),
        (["--target=gke", "--detach"], "abc", 0),
        (["--target=gke"], "abc", 75),
        (["--target=slurm"], "ab", 75),
    ],
)
def test_a_target_that_only_starts_runs_has_done_its_part(
    project, launched, monkeypatch, target, started, expected
):
    monkeypatch.setattr(sweep.Pool, "run", lambda self, todo: dict.fromkeys(started, 0))
    assert launched(sweep, ["--sweep=s.json", "--workdir=r", *target])[0] == expected


def test_every_variant_gets_its_own_machine(project, launched):
    argv = ["--sweep=s.json", "--workdir=gs://b/s", "--target=queued", "--name=s", "--dry_run"]
    code, out, _ = launched(sweep, [*argv, "--spot", "--zone=z", "--", "--config.seed=3"])
    assert code == 0
    lines = [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]
    assert [line[2:5] for line in lines] == [
        ["launch.queued", "train", f"--name=s-{k}"] for k in range(3)
    ]
    assert lines[1][5:] == [
        *("--workdir=gs://b/s/b", "--spot", "--zone=z", "--"),
        *("--config=c.py:demo", "--config.fails=True", "--config.seed=3"),
    ]


@pytest.mark.parametrize(
    ("mode", "told"), [(["--mode=check"], "check"), (["-mode", "eval"], "eval")]
)
def test_a_sweep_that_would_never_be_finished_is_refused(project, launched, mode, told):
    code, _, said = launched(sweep, ["--sweep=s.json", "--workdir=r", "--", *mode])
    assert (code, f"--mode={told}: a sweep trains its variants" in said) == (2, True)
    assert said.count("\n") == 1
    assert [calls(project, n) for n in "abc"] == [0, 0, 0]


def test_a_mode_that_trains_is_passed_on(project, launched):
    argv = ["--sweep=s.json", "--workdir=r", "--dry_run", "--", "--mode", "train"]
    code, out, _ = launched(sweep, argv)
    assert (code, out.count("--mode train")) == (0, 3)


def test_a_config_file_lists_its_own_variants(project):
    (project / "c.py").write_text(
        "def sweep():\n"
        "    for rate in (1e-3, 1e-4):\n"
        "        yield {'optim.learning_rate': rate, 'seed': 1}\n"
    )
    found = read_sweep("c.py:demo").variants
    assert found["learning_rate=0.001-seed=1"] == [
        "--config=c.py:demo",
        "--config.optim.learning_rate=0.001",
        "--config.seed=1",
    ]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ("{", "must hold"),
        ('{"config": "c.py"}', "must hold"),
        ('{"config": "c.py", "variants": {}}', "lists no variants"),
        ('{"config": "c.py", "variants": {"a/b": []}}', "cannot name a folder"),
        ('{"config": "c.py", "variants": 5}', "the variants are 5, but must be a mapping"),
        ('{"config": "c.py", "variants": null}', "the variants are None, but must be a mapping"),
        ('{"config": "c.py", "variants": "a"}', "the variants are 'a', but must be a mapping"),
        ('{"config": "c.py", "variants": {"a": "--config.x=1"}}', "must be a list"),
        ('{"config": "c.py", "variants": {"a": ["--workdir=x"]}}', "is no --config... argument"),
        ('{"config": "c.py", "variants": {"a": [], "b": []}}', "two variants are the same run"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(tmp_path, record, sentence):
    (tmp_path / "s.json").write_text(record)
    with pytest.raises(UserError, match=sentence):
        read_sweep(str(tmp_path / "s.json"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"has no function sweep\(\)"),
        ("def sweep(:\n", r"is not Python that can be read \(invalid syntax .*line 1\)"),
        ("def sweep():\n    pass\n", "the variants are None, but must be a mapping"),
        ("def sweep():\n    return {1: []}\n", "1 cannot name a folder"),
    ],
)
def test_a_config_without_variants_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_sweep(str(tmp_path / "c.py"))


def test_the_demo_sweep_can_be_read():
    found = read_sweep("launch/demo_sweep.json")
    assert len(found.variants) == 4
    assert found.table == "demo_retrieval"
