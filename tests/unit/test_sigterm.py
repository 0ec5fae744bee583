"""SIGTERM ends a process wherever it is, and is a notice to the training loop inside of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import os, signal, sys
from mmjax.parallel import coordination, distributed, ending, sigterm
distributed.start("off")
ending.at_end(lambda: print("the lock is given back"))

def ask_to_end():
    os.kill(os.getpid(), signal.SIGTERM)

def wait():
    coordination.ask("what nobody tells")  # in a library, ten minutes long
"""
ENDED = "mmjax: SIGTERM: what was saved is kept; the same command continues.\n"
LOCK = "the lock is given back\n"

# What happens, what is printed, the exit code, what is said at the end.
CASES = {
    "outside of the loop": ("ask_to_end(); wait()", LOCK, 75, ENDED),
    "inside of it": (
        """
with distributed.StopRequest() as stop:
    print(stop.agreed(0))
    ask_to_end()
    step = 1
    while not stop.agreed(step):
        step += 1
    print("saved")
    ask_to_end()  # launchers ask twice
    os._exit(75)
""",
        "False\nsaved\n",
        75,
        "",
    ),
    "in its last step": (
        """
with distributed.StopRequest():
    ask_to_end()
    while not sigterm._came:
        pass
    print("the last state is saved")
print("the final evaluation")
""",
        "the last state is saved\n" + LOCK,
        75,
        ENDED,
    ),
    "after it": (
        """
with distributed.StopRequest():
    pass
ask_to_end()
wait()
""",
        LOCK,
        75,
        ENDED,
    ),
    "in a process that was forked off": (
        """
pid = os.fork()
if pid == 0:
    ask_to_end()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        "-15\n",
        0,
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_ends_the_process_wherever_that_is_and_the_loop_saves_first(case):
    program, out, code, said = CASES[case]
    done = subprocess.run(
        [sys.executable, "-u", "-c", START + program],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert [line for line in done.stderr.splitlines(True) if line.startswith("mmjax:")] == (
        [said] if said else []
    )
