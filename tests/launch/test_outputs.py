"""Outputs that nobody reads any more: what is started then does its work all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from launch import outputs

STARTS_ONE = """
from launch.commands import Commands
commands = Commands()
commands.say("deleting")
commands.run(["bash", "-c", "echo out && echo err >&2 && echo done > file"])
commands.say("done")
print("table", flush=True)
"""


def test_a_program_that_is_started_after_the_reader_has_gone_does_its_work(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-c", STARTS_ONE]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        argv, stdout=writer, stderr=writer, cwd=tmp_path, env=environment, check=False
    )
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "done\n"


def test_outputs_that_are_read_stay_as_they_are(tmp_path, capfd):
    outputs.replace_dead()
    outputs.write("said\n")
    subprocess.run(["bash", "-c", "echo shown"], check=True)
    assert capfd.readouterr() == ("shown\n", "said\n")
