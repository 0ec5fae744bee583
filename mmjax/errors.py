"""The one exception that is written for the person who meets it, and the exit codes."""

from __future__ import annotations

# Of `mmjax.main`, which says what each means.
EXIT_BUG, EXIT_USER_ERROR, EXIT_DOES_NOT_FIT = 1, 2, 3
EXIT_LOST, EXIT_PREEMPTED, EXIT_INTERRUPTED = 69, 75, 130


class UserError(Exception):
    """Bad input: the message says what went wrong, where, and what to do next.

    `mmjax.main` prints the message without a traceback and exits with code 2. Any other
    exception is a bug in mmjax and keeps its traceback.
    """

    exit_code = EXIT_USER_ERROR


class OutageError(UserError):
    """What the run needs cannot be reached for now: nothing is wrong with its command, which
    continues it when it is started again, by a launcher too.
    """

    exit_code = EXIT_LOST
