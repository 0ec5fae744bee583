"""What happens on a worker, with a stand-in for mmjax: real processes, locks and signals."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = "--version=0123456789abcdef"
MMJAX = """#!{python} -IS
import os, signal, sys
print("said", sys.argv[3:], os.environ.get("KEY"), flush=True)
if "wait" in sys.argv:
    saves = lambda *_: sys.exit(75)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else saves)
    os.mkfifo("ready") if not os.path.exists("ready") else None
    open("ready", "w").close()
    while True:
        signal.pause()
sys.exit(int(sys.argv[-1]))
"""


class Worker:
    """A folder as `setup` leaves it."""

    def __init__(self, folder: Path):
        self.folder, self.code = folder, folder / "code-0123456789ab"
        (folder / "venv" / "bin").mkdir(parents=True)
        self.code.mkdir()
        shutil.copy(ROOT / "launch" / "worker.py", folder)
        python = folder / "venv" / "bin" / "python"
        python.write_text(MMJAX.format(python=sys.executable))
        python.chmod(0o755)

    def call(self, *argv: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-IS", str(self.folder / "worker.py"), *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def start(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.call("start", VERSION, "--", *arguments)

    def start_one_that_waits(self, *how: str) -> None:
        os.mkfifo(self.code / "ready")
        assert self.start("wait", *how).returncode == 0
        (self.code / "ready").open().close()  # until it listens to signals

    def finish(self) -> None:
        """Waits for the end of the run, without asking again and again."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def status(self) -> dict:
        return json.loads(self.call("status").stdout.removeprefix("STATUS "))

    def log(self, *argv: str) -> dict:
        return json.loads(self.call("logs", *argv).stdout.removeprefix("LOG "))


@pytest.fixture
def worker(tmp_path):
    return Worker(tmp_path / "mmjax-scan")


@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_run_goes_on_by_itself_and_leaves_log_and_exit_code(worker, code):
    assert worker.status()["state"] == "none"
    (worker.folder / "env").write_text("KEY=s3cr3t=value\n")
    (worker.folder / "env").chmod(0o600)
    assert worker.start("--a=b c", str(code)).returncode == 0
    worker.finish()
    status = worker.status()
    assert (status["state"], status["code"], status["stopped"]) == ("exited", code, False)
    log = worker.log()
    assert log["text"] == f"said ['--a=b c', '{code}'] s3cr3t=value\n"
    assert worker.log(f"--begin={log['next']}") == {"next": log["next"], "more": False, "text": ""}


def test_stop_lets_it_save(worker):
    worker.start_one_that_waits()
    assert worker.status()["state"] == "running"
    again = worker.start("wait")
    assert (again.returncode, "goes already" in again.stdout) == (0, True)
    (worker.code / "requirements.txt").touch()
    changed = worker.call("setup", VERSION, "--requirement=jax")
    assert (changed.returncode, "with other packages" in changed.stderr) == (2, True)
    other = worker.start("0")
    assert (other.returncode, "another run goes on this worker" in other.stderr) == (2, True)
    assert "stopped" in worker.call("stop").stdout
    status = worker.status()
    assert (status["state"], status["code"], status["stopped"]) == ("exited", 75, True)
    assert worker.start("0").returncode == 0
    worker.finish()
    assert worker.status()["stopped"] is False
    assert "no run" in worker.call("stop").stdout


def test_a_stop_that_has_to_kill_leaves_an_exit_code_and_does_not_look_like_a_restart(worker):
    worker.start_one_that_waits("deaf")
    assert "killed after 0.0 s" in worker.call("stop", "--seconds=0").stdout
    status = worker.status()
    assert (status["state"], status["code"], status["stopped"]) == ("exited", 137, True)


def test_a_restart_of_the_machine_is_noticed(worker):
    worker.start_one_that_waits()
    watcher = int((worker.folder / "pid").read_text())
    os.killpg(watcher, 9)
    worker.finish()
    assert worker.status()["state"] == "lost"


def test_a_run_without_its_code_is_refused(worker):
    refused = worker.call("start", "--version=ffff", "--", "0")
    assert (refused.returncode, refused.stderr) == (
        2,
        "worker: code ffff is not here: setup comes first\n",
    )


def test_long_logs_come_in_parts(worker):
    (worker.folder / "log.txt").write_text("x" * 100_000 + "end")
    first = worker.log("--begin=0")
    assert (len(first["text"]), first["more"]) == (65536, True)
    assert worker.log(f"--begin={first['next']}")["text"].endswith("end")
    assert worker.log()["next"] == 100_003  # without a begin: the end


def test_another_commit_than_the_one_asked_for_is_refused(worker):
    shutil.rmtree(worker.code)
    archive = worker.folder / "code-0123456789ab.tar.gz"
    missing = worker.call("setup", VERSION, "--requirement=jax")
    assert (missing.returncode, "was not copied" in missing.stderr) == (2, True)
    git = ["git", "-C", str(ROOT), "archive", "--format=tar.gz", "-o", str(archive), "HEAD"]
    if not (ROOT / ".git").exists():
        pytest.skip("the project is not a git repository here")
    subprocess.run([*git, "LICENSE"], check=True)
    refused = worker.call("setup", VERSION, "--requirement=jax")
    assert (refused.returncode, "holds commit" in refused.stderr) == (2, True)


def test_exec_hands_over_variables_and_signals_to_one_process(worker):
    (worker.folder / "keys").write_text("KEY=s3cr3t\n")
    (worker.folder / "keys").chmod(0o644)
    argv = ["exec", f"--env_file={worker.folder / 'keys'}", "--", "sh", "-c", "echo $KEY; exit 75"]
    assert worker.call(*argv).returncode == 2
    (worker.folder / "keys").chmod(0o600)
    done = worker.call(*argv)
    assert (done.returncode, done.stdout) == (75, "s3cr3t\n")
