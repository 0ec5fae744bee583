"""What the processes of one run came to, as one exit code; those of `mmjax.main` are kept."""

from __future__ import annotations

from collections.abc import Sequence

from mmjax.errors import EXIT_INTERRUPTED, EXIT_LOST, EXIT_PREEMPTED, EXIT_USER_ERROR

DONE, USER_ERROR, PEER_LOST = 0, EXIT_USER_ERROR, EXIT_LOST
PREEMPTED, INTERRUPTED = EXIT_PREEMPTED, EXIT_INTERRUPTED

# The same command continues the run: its state is saved, or it lost a process that was not at
# fault itself.
AGAIN = (PREEMPTED, PEER_LOST)


def combined(codes: Sequence[int]) -> int:
    """One exit code of all processes, given in the order in which they ended.

    A sentence to the user (2) stands above everything, since the others only fell with it; then
    the first failure. That others were lost (69) tells the reason only where nothing else does.
    """
    failures = [c for c in map(as_exit_code, codes) if c not in (DONE, *AGAIN)]
    if failures:
        return USER_ERROR if USER_ERROR in failures else failures[0]
    return next((code for code in reversed(AGAIN) if code in codes), DONE)


def as_exit_code(returncode: int) -> int:
    """`subprocess`'s -9 for a process that was killed is the shell's 137."""
    return returncode if returncode >= 0 else 128 - returncode
