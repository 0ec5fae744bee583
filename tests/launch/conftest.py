"""A world in which gcloud and its like are stand-ins, and in which nobody waits."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch import code as code_lib
from launch.arguments import guarded
from launch.commands import Commands
from tests.launch.world import World

VERSION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    """The stand-ins (`world.py`), first on the PATH; the code is a fixed commit."""
    with World(tmp_path / "world") as found:
        monkeypatch.setenv("PATH", f"{found.bin}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(Commands, "sleep", lambda self, seconds: found.slept.append(seconds))
        pinned = code_lib.Code(VERSION, tmp_path / "code-0123456789ab.tar.gz")
        monkeypatch.setattr(code_lib, "pin", lambda code: pinned)
        monkeypatch.setattr(code_lib, "warn_of_changes", lambda code, commands: None)
        yield found


@pytest.fixture
def env_file(tmp_path) -> Path:
    """A file with a secret."""
    file = tmp_path / "env"
    file.write_text("# keys\nWANDB_API_KEY=s3cr3t=value\n")
    file.chmod(0o600)
    return file


class _DeadOutput(io.TextIOBase):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def dead_output() -> io.TextIOBase:
    """What stdout and stderr are once the terminal is closed."""
    return _DeadOutput()


@pytest.fixture
def shellcheck() -> Callable[[str], None]:
    """Fails where shellcheck finds something in a text."""
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("shellcheck", path=where)
    if program is None:
        pytest.skip("shellcheck is not installed (pip install -r requirements-test.txt)")

    def check(text: str) -> None:
        argv = [program, "--shell=bash", "-"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout

    return check


@pytest.fixture
def launched(capsys) -> Callable[[Any, Sequence[str]], tuple[int, str, str]]:
    """Calls a launcher: (exit code, output, what it said)."""

    def launch(module: Any, argv: Sequence[str]) -> tuple[int, str, str]:
        code = guarded(module.main, argv)
        said = capsys.readouterr()
        return code, said.out, said.err

    return launch
