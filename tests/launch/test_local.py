"""Processes that live and die together: real ones, with a stand-in for mmjax."""

from __future__ import annotations

import os
import sys

import pytest

from launch import local
from launch.exit_codes import combined
from launch.processes import Group

# What each process does, by its number.
MAIN = """
import os, signal, sys
number = int(os.environ["JAX_PROCESS_ID"])
print("process", number, "of", os.environ["JAX_NUM_PROCESSES"], flush=True)
{body}
"""
SAVES_WHEN_ASKED = "signal.sigwait([signal.SIGTERM, signal.SIGINT]); sys.exit(75)"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs processes whose mmjax.main has this body: (exit code, output)."""

    def launch(body, *options, processes=2):
        folder = tmp_path / "mmjax"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / "main.py").write_text(MAIN.format(body=body))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Group.__init__, "__defaults__", (0.2, 60))
        argv = [f"--processes={processes}", "--platform=cpu", *options, "--workdir=r"]
        code = local.main(["run", *argv, "--", "--config=a.py"])
        return code, capsys.readouterr().out

    return launch


def test_processes_know_of_each_other_and_their_lines_are_marked(run):
    code, out = run("print(os.environ['JAX_COORDINATOR_ADDRESS'], sys.argv[-1])")
    assert code == 0
    assert "[0] process 0 of 2" in out
    assert "[1] process 1 of 2" in out
    addresses = {line.split()[1] for line in out.splitlines() if "127.0.0.1" in line}
    assert len(addresses) == 1
    assert out.count("--distributed=on") == 2


@pytest.mark.parametrize("code", [1, 2, 75])
def test_exit_codes_are_kept(run, code):
    assert run(f"sys.exit({code})")[0] == code


def test_the_sentence_to_the_user_stands_above_what_it_brought_down(run):
    assert run("sys.exit(2) if number else signal.pause()")[0] == 2
    assert combined([137, 2, 0]) == 2
    assert combined([0, -9, 1]) == 137
    assert combined([75, 0, 75]) == 75
    assert combined([69, 75, 1, 69]) == 1
    assert combined([69, 75]) == 69


def test_all_end_when_one_dies(run):
    code, _ = run("os.kill(os.getpid(), 9) if number else signal.pause()")
    assert code == 137


def test_one_that_does_not_listen_is_killed(run):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    assert run(f"{deaf}\nsys.exit(1) if number else signal.pause()")[0] == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_reach_all_and_the_run_is_not_started_again(run, tmp_path, name):
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])"
    os.mkfifo(tmp_path / "both are ready")
    meet = "open('both are ready', 'r' if number else 'w').close()"
    tell = f"if number == 1: os.kill(os.getppid(), signal.{name})"
    code, out = run(f"{blocked}\n{meet}\n{tell}\n{SAVES_WHEN_ASKED}", "--relaunches=3")
    assert code == 75
    assert out.count("process 0 of 2") == 1


def test_a_run_that_was_asked_to_stop_is_not_started_again_where_one_lost_the_other(run, tmp_path):
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"
    os.mkfifo(tmp_path / "both are ready")
    meet = "other = open('both are ready', 'r' if number else 'w')"
    tell = "if number == 1: os.kill(os.getppid(), signal.SIGTERM)"
    wait = "signal.sigwait([signal.SIGTERM]); number and other.read()"  # until it is gone
    end = "sys.exit(69 if number else 75)"
    code, out = run(f"{blocked}\n{meet}\n{tell}\n{wait}\n{end}", "--relaunches=3")
    assert code == 75
    assert out.count("process 0 of 2") == 1


def test_a_closed_terminal_does_not_hide_that_the_state_is_saved(run, monkeypatch, dead_output):
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])"
    tell = "os.kill(os.getppid(), signal.SIGHUP)"
    monkeypatch.setattr(sys, "stdout", dead_output)
    monkeypatch.setattr(sys, "stderr", dead_output)
    assert run(f"{blocked}\n{tell}\n{SAVES_WHEN_ASKED}", processes=1)[0] == 75


def test_a_run_that_saved_itself_is_started_again(run, monkeypatch, tmp_path):
    monkeypatch.setattr("launch.commands.Commands.sleep", lambda self, seconds: None)
    body = "done = os.path.exists('once'); open('once', 'w').close(); sys.exit(0 if done else 75)"
    assert run(body, "--relaunches=1", processes=1)[0] == 0


def test_secrets_reach_the_processes(run, env_file):
    code, out = run("print(os.environ['WANDB_API_KEY'])", f"--env_file={env_file}", processes=1)
    assert (code, "s3cr3t=value" in out) == (0, True)
    code, out = run("", f"--env_file={env_file}", "--dry_run")
    assert (code, "s3cr3t" in out) == (0, False)
