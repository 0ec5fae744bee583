"""Counts rows that cannot be used, up to the number that the user accepts."""

from __future__ import annotations

from mmjax.errors import UserError


class BadRows:
    """Attributes:
    count: how many so far.
    first: what was wrong with the first one; "" while there is none.
    """

    def __init__(self, limit: int):
        self.limit, self.count, self.first = limit, 0, ""

    def add(self, message: str) -> None:
        """Counts one row. Raises UserError where it is one too many."""
        self.count += 1
        self.first = self.first or message
        if self.count > self.limit:
            beside = f" ({self.limit:,} were passed over before)" if self.limit else ""
            raise UserError(
                f"{message}{beside}: correct the file, or accept some with --max_bad_records=N."
            )
