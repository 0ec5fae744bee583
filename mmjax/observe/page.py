"""What a retrieval model answered, as one HTML file: dialogues, right photos, best candidates.

The file stands alone: styles, script and photos are in it, and its content security policy lets
nothing else in. The script draws examples as the reader scrolls. What comes from the dataset
reaches the page as JSON and is only ever set as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from mmjax.data.images import decode_image

# As in figures 5 and 6 of the PhotoChat paper.
_TOP = 5
# Highest rank of each bar; the script colours ranks by the same first three bounds.
_BARS = (1, 5, 10, 20, 50, 100, 1000, math.inf)
_TONES = ("first", "near", "far", "lost")
_THUMBNAIL_QUALITY = 60
_LONGEST_TO_SHORTEST = 1.5


def write_page(
    path: epath.PathLike,
    answers: Sequence[Mapping[str, Any]],
    *,
    thumbnail: Callable[[str], bytes | None],
    title: str,
    about: Mapping[str, str],
    limit: int = 300,
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file, local or in a bucket.
      answers: JSON values of `mmjax.tasks.retrieval`: "id", "turns", "asked", "photo", "labels",
        "above", "score" and "top". Where "sharer" is missing too, the one speaker of the turns
        that were asked is taken for the sharer.
      thumbnail: a photo's JPEG bytes by its id, or None: its labels are shown in their place.
      about: facts of the run for the header, such as {"split": "dev", "recall@1": "16.3"}.
      limit: examples in the page. Of more answers, the worst half of the page is the most wrong
        ones, the rest a sample at even distances in the order of rank; the page says so. The
        histogram counts all answers.
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: at least one example is shown.")
    chosen, worst = _chosen(answers, limit)
    style, script = _part("page.css"), _part("page.js")
    text = Template(_part("page.html")).substitute(
        title=html.escape(title),
        facts="".join(_fact(name, value) for name, value in about.items()),
        total=f"{len(answers):,}",
        bars=_bars([answer["above"] + 1 for answer in answers]),
        selection=_selection(len(answers), len(chosen), worst),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        data=_script_json(_data(answers, chosen, thumbnail)),
    )
    # Half of a surrogate pair, which JSON can hold, is no UTF-8.
    epath.Path(path).write_bytes(text.encode("utf-8", "xmlcharrefreplace"))


def thumbnail(data: bytes, side: int = 160) -> bytes:
    """A small JPEG of an encoded image: about 6 kB for the default side.

    Args:
      side: pixels of the shorter side; the longer one is cropped to 3/2 of it.

    Raises:
      BadImageError: the bytes are no image that can be used.
    """
    image = Image.fromarray(decode_image(data, shortest=side))
    shortest = min(image.size)
    longest = shortest * _LONGEST_TO_SHORTEST
    width, height = (round(min(length, longest)) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    image = image.resize(
        tuple(max(1, round(length * side / shortest)) for length in image.size),
        Image.Resampling.LANCZOS,
    )
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True, progressive=True)
    return encoded.getvalue()


def _chosen(answers: Sequence[Mapping[str, Any]], limit: int) -> tuple[list[int], int]:
    """Positions of the answers to show, in dataset order, and how many of them are the worst."""
    if len(answers) <= limit:
        return list(range(len(answers))), 0
    by_rank = sorted(range(len(answers)), key=lambda i: -answers[i]["above"])
    worst = (limit + 1) // 2
    rest = by_rank[worst:]
    # Both ends are in: the best answer is always shown where there is room for one.
    even = np.linspace(len(rest) - 1, 0, limit - worst).round().astype(int)
    return sorted(by_rank[:worst] + [rest[i] for i in even]), worst


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _fact(name: str, value: str) -> str:
    name, value = html.escape(str(name)), html.escape(str(value))
    return f'<div><dt dir="auto">{name}</dt><dd dir="auto">{value}</dd></div>'


def _bars(ranks: Sequence[int]) -> str:
    """The histogram's list items, empty bars at the far end left out."""
    which = np.searchsorted(_BARS, ranks)
    counts = np.bincount(which, minlength=len(_TONES))
    items = []
    for i, count in enumerate(counts.tolist()):
        low, high = (_BARS[i - 1] + 1 if i else 1), _BARS[i]
        span = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        span = f"&gt;{low - 1:,}" if high == math.inf else span
        height = 100 * count / max(1, counts.max())
        items.append(
            f'<li class="{_TONES[min(i, 3)]}"><b>{count:,}</b>'
            '<svg viewBox="0 0 10 100" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect y="{100 - height:.2f}" width="10" height="{height:.2f}"/></svg>'
            f'<span><i class="unseen">rank </i>{span}</span></li>'
        )
    return "".join(items)


def _selection(total: int, shown: int, worst: int) -> str:
    """The sentence that says which part of the answers is in the page."""
    if shown == total:
        return ""
    sample = shown - worst
    rest = f", and {sample:,} of the others, evenly spaced by rank" if sample else ""
    return (
        f'<p class="selection"><b>{shown:,} of {total:,} examples are here</b>, to keep the file '
        f"small: the {worst:,} most wrong{rest}. The histogram counts all.</p>"
    )


def _csp_hash(text: str) -> str:
    """Content Security Policy level 3, section 2.3.1: hash-source."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(
    answers: Sequence[Mapping[str, Any]],
    chosen: Sequence[int],
    thumbnail: Callable[[str], bytes | None],
) -> dict[str, Any]:
    """What the script draws; photos and their pixels are tables that examples point into."""
    photos: dict[tuple[str, tuple[str, ...]], int] = {}
    examples = [_example(answers[i], i, photos) for i in chosen]
    images: dict[bytes, int] = {}
    image_of = {}
    for name in dict.fromkeys(name for name, _ in photos):
        data = thumbnail(name)
        image_of[name] = None if data is None else images.setdefault(data, len(images))
    return {
        "examples": examples,
        "photos": [
            {"id": name, "labels": labels, "image": image_of[name]} for name, labels in photos
        ],
        "images": [base64.b64encode(data).decode() for data in images],
    }


def _example(
    answer: Mapping[str, Any], position: int, photos: dict[tuple[str, tuple[str, ...]], int]
) -> dict[str, Any]:
    def index(photo: Mapping[str, Any]) -> int:
        return photos.setdefault((photo["photo"], tuple(photo["labels"])), len(photos))

    turns, asked = answer["turns"], set(answer["asked"])
    speakers = {turn["speaker"] for i, turn in enumerate(turns) if i in asked}
    sharer = answer.get("sharer", speakers.pop() if len(speakers) == 1 else None)
    return {
        "position": position,
        "id": answer["id"],
        "rank": answer["above"] + 1,
        "score": _number(answer["score"]),
        "photo": index(answer),
        "top": [[index(photo), _number(photo["score"])] for photo in answer["top"][:_TOP]],
        "sharer": sharer,
        "turns": [[turn["speaker"], turn["text"], int(i in asked)] for i, turn in enumerate(turns)],
    }


def _number(score: float | None) -> float | None:
    """JSON has no NaN."""
    return score if score is not None and math.isfinite(score) else None


def _script_json(value: Any) -> str:
    """JSON that is safe inside a script element and, whatever the strings hold, is UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    unsafe = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
    return unsafe.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
