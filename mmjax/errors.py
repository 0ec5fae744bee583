"""The one exception that is written for the person who meets it."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message says what went wrong, where, and what to do next.

    `mmjax.main` prints the message without a traceback and exits with code 2. Any other
    exception is a bug in mmjax and keeps its traceback.
    """
