"""An HTML page that stands alone: styles, script and data are in it, and nothing else gets in.

Its content security policy admits the page's own style and script alone. The script draws examples
as the reader scrolls (`list.js`, and one file per kind of page). What comes from a dataset reaches
the page as JSON and is only ever set as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from etils import epath

from mmjax import storage


def write_document(
    path: epath.PathLike,
    script: str,
    data: Mapping[str, Any],
    *,
    title: str,
    about: Mapping[str, str],
    search: str,
    groups: str,
    key: Mapping[str, str] | None = None,
    figure: str = "",
    more: str = "",
    footer: str = "",
) -> None:
    """Writes the page. Texts are escaped; `figure`, `more` and `footer` are HTML.

    Args:
      path: of the HTML file, local or in a bucket.
      script: name of the file that draws the examples, beside this one.
      data: JSON values for the script: "examples" is a list of objects with an "id".
      about: facts for the header.
      search, groups: what the field and the buttons are for.
      key: class of a swatch -> what it stands for.
    """
    style, code = _part("page.css"), _part("list.js") + _part(script)
    swatches = (
        f'<span class="key"><i class="swatch {name}"></i>{html.escape(text)}</span>'
        for name, text in (key or {}).items()
    )
    text = Template(_part("page.html")).substitute(
        title=html.escape(title),
        facts="".join(_fact(name, value) for name, value in about.items()),
        search=html.escape(search),
        groups=html.escape(groups),
        key="".join(swatches),
        figure=figure,
        more=more,
        footer=footer,
        style=style,
        style_hash=_csp_hash(style),
        script=code,
        script_hash=_csp_hash(code),
        data=_script_json(data),
    )
    # Half of a surrogate pair, which JSON can hold, is no UTF-8.
    storage.write_bytes(path, text.encode("utf-8", "xmlcharrefreplace"))


def bars(caption: str, items: Sequence[tuple[str, str, float, str]], unseen: str) -> str:
    """A figure of bars.

    Args:
      items: (name below, text above, height from 0 to 1, class) of each.
      unseen: said before each name to who hears the page.
    """
    drawn = "".join(
        f'<li class="{tone}"><b>{html.escape(value)}</b>'
        '<svg viewBox="0 0 10 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect y="{100 - 100 * height:.2f}" width="10" height="{100 * height:.2f}"/></svg>'
        f'<span><i class="unseen">{html.escape(unseen)} </i>{html.escape(name)}</span></li>'
        for name, value, height, tone in items
    )
    return (
        f'<figure class="histogram"><figcaption>{html.escape(caption)}</figcaption>'
        f"<ol>{drawn}</ol></figure>"
    )


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _fact(name: str, value: str) -> str:
    name, value = html.escape(str(name)), html.escape(str(value))
    return f'<div><dt dir="auto">{name}</dt><dd dir="auto">{value}</dd></div>'


def _csp_hash(text: str) -> str:
    """Content Security Policy level 3, section 2.3.1: hash-source."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(value: Any) -> str:
    """JSON that is safe inside a script element and, whatever the strings hold, is UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    unsafe = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
    return unsafe.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
