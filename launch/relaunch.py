"""Starts a run again when its machine was taken away, and only then."""

from __future__ import annotations

from collections.abc import Callable

from launch.commands import Commands
from launch.exit_codes import AGAIN, PEER_LOST, PREEMPTED

# What an attempt returns, beside exit codes, when the machine under it is gone, or a new attempt
# could not be made for now.
VANISHED = None

# Before the next attempt: capacity that was just taken away is rarely back at once.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30, 600

_REASONS = {
    VANISHED: "the machine is gone or cannot be reached",
    PEER_LOST: "a process of the run, or its bucket, was lost",
    PREEMPTED: "the run saved its state and stopped",
}


class Stopped(Exception):  # noqa: N818 - no error, an outcome
    """The run ended because somebody asked it to stop: it is not started again."""


def supervise(attempt: Callable[[], int | None], relaunches: int, commands: Commands) -> int:
    """Calls `attempt` until the run is over; returns its exit code.

    Exit codes 75 (the state is saved) and 69 (a process was lost) and VANISHED mean: again, at most
    `relaunches` times. Any other code is the run's own, and is returned. When no attempt is left
    the code is 75: the same command continues the run.
    """
    for made in range(relaunches + 1):
        try:
            code = attempt()
        except Stopped:
            commands.say("stopped as asked: the same command continues it from what it has saved")
            return PREEMPTED
        if code not in (*AGAIN, VANISHED):
            return code
        why = _REASONS[code]
        if made == relaunches:
            commands.say(
                f"{why}; {relaunches} relaunches are used up: the same command continues the run."
            )
            break
        wait = min(FIRST_WAIT_SECONDS * 2**made, LONGEST_WAIT_SECONDS)
        commands.say(f"{why}: relaunch {made + 1} of {relaunches} in {wait} s")
        commands.sleep(wait)
    return PREEMPTED
