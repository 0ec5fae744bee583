"""What a reader of HTML finds in a page, and a text that tries to be more than text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = (
    "</script><script>alert(1)</script></script x><!--<script >"
    "<img src=x onerror=alert(2)> \u2028 &amp; ${data} '\""
)


class Page(HTMLParser):
    """What a reader of HTML finds in the file."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.source = path.read_text(encoding="utf-8")
        self._open: list[str] = []
        self.feed(self.source)
        self.close()

    @property
    def data(self) -> dict:
        def no_constant(name: str):
            raise AssertionError(f"{name} is no JSON")

        return json.loads(self.inside["script#data"][0], parse_constant=no_constant)

    def text(self, tag: str) -> str:
        return " ".join("".join(self.inside[tag]).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        name = tag + (f"#{attributes['id']}" if "id" in attributes else "")
        self._open.append(name)
        self.inside.setdefault(name, []).append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop().partition("#")[0] != tag:
            pass

    def handle_data(self, data):
        for name in self._open:
            self.inside[name][-1] += data
