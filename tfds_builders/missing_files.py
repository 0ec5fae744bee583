"""The list of files that a server does not have, so that they are not asked for again."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping
from pathlib import Path

from mmjax.errors import UserError

_SUSPICIOUS = 20  # so many absent files and no other: it is the wrong server


class MissingFiles:
    """`names`: file -> reason, of those among `addresses` that the server does not have.

    They are written down only once it is confirmed that the server has any of the files: a
    mistyped address must not be remembered as thousands of missing files.

    Args:
      path: JSON lines of name, reason, date, address. A line that a kill cut short is ignored.
      addresses: file's name -> where it comes from; what another address did not have counts not.
      confirmed: the server is known to have some of the files.
    """

    def __init__(self, path: Path, addresses: Mapping[str, str], confirmed: bool):
        self.path, self._addresses = path, addresses
        self._text = path.read_text(errors="replace") if path.exists() else ""
        self.names: dict[str, str] = {}
        for line in self._text.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                if addresses.get(entry["name"]) == entry["address"]:
                    self.names[entry["name"]] = entry["reason"]
        self._confirmed = confirmed or bool(self.names)
        self._unwritten: list[str] = []

    def add(self, name: str, reason: str) -> None:
        """Raises UserError when it looks as if the address were wrong."""
        self.names[name] = reason
        entry = {
            "name": name,
            "reason": reason,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "address": self._addresses[name],
        }
        self._unwritten.append(json.dumps(entry) + "\n")
        if self._confirmed:
            self.confirm()
        elif len(self._unwritten) >= _SUSPICIOUS:
            raise UserError(
                f"The first {len(self._unwritten)} files are not there ({self._addresses[name]}: "
                f"{reason}); check that the address is right."
            )

    def confirm(self) -> None:
        """Writes down what was held back: the server has files, or there were only a few."""
        self._confirmed = True
        if self._unwritten:
            torn = bool(self._text) and not self._text.endswith("\n")
            lines = "\n" * torn + "".join(self._unwritten)
            with self.path.open("a") as file:
                file.write(lines)
            self._text = lines
            self._unwritten.clear()
