"""What a retrieval model answered, as one HTML file: dialogues, right photos, best candidates."""

from __future__ import annotations

import base64
import collections
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from mmjax.data.images import decode_image
from mmjax.observe.document import bars, write_document

# As in figures 5 and 6 of the PhotoChat paper.
_TOP = 5
# Highest rank of each bar; the script colours ranks by the same first three bounds.
_BARS = (1, 5, 10, 20, 50, 100, 1000, math.inf)
_TONES = ("first", "near", "far", "lost")
_KS = (1, 5, 10)
_MOST_LABELS = 300
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
        "above", "score" and "top". Where "equal" is missing, the score is the right photo's alone;
        where "sharer" is missing too, the one speaker of the turns that were asked is taken for the
        sharer. A turn may have the "probability" that a photo follows, and the answer then the
        "threshold" (see `mmjax.observe.intent_page.beside`).
      thumbnail: a photo's JPEG bytes by its id, or None: its labels are shown in their place.
      about: facts of the run for the header, such as {"split": "dev", "recall@1": "16.3"}.
      limit: examples in the page. Of more answers, the worst half of the page is the most wrong
        ones, the rest a sample at even distances in the order of rank; the page says so. The
        histogram and the recalls per label count all answers.
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: at least one example is shown.")
    chosen, worst = _chosen(answers, limit)
    data = _data(answers, chosen, thumbnail)
    key = {"asked": "the query", "right": "the right photo"}
    if any(turn[3] is not None for example in data["examples"] for turn in example["turns"]):
        key["chance"] = "chance that a photo follows"
    write_document(
        path,
        "retrieval.js",
        data,
        title=title,
        about=about,
        search="Search dialogues and labels",
        groups="Rank of the right photo",
        key=key,
        figure=_histogram([answer["above"] + 1 for answer in answers]),
        more=_labels_table(len(data["labels"])) + _selection(len(answers), len(chosen), worst),
        footer="Rank: one more than the number of photos scored above the right one.",
    )


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


def _histogram(ranks: Sequence[int]) -> str:
    """The bars of the ranks, empty ones at the far end left out."""
    counts = np.bincount(np.searchsorted(_BARS, ranks), minlength=len(_TONES)).tolist()
    items = []
    for i, count in enumerate(counts):
        low, high = (_BARS[i - 1] + 1 if i else 1), _BARS[i]
        span = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        span = f">{low - 1:,}" if high == math.inf else span
        items.append((span, f"{count:,}", count / max(1, *counts), _TONES[min(i, 3)]))
    return bars(f"Rank of the right photo, all {len(ranks):,} examples", items, "rank")


def _labels_table(count: int) -> str:
    """The script fills it."""
    if not count:
        return ""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("examples", "R@1", "R@5", "R@10"))
    return (
        '<details class="labels"><summary>Recall by label of the right photo</summary><div><table>'
        f'<thead><tr><th scope="col">label</th>{heads}</tr></thead><tbody id="labels"></tbody>'
        "</table></div></details>"
    )


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
        "labels": _labels(answers),
    }


def _labels(answers: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """[label of the right photo, examples, mean recall at 1, 5 and 10 in percent], frequent first.

    Recall is expected over the order of equal scores, as in `mmjax.metrics.retrieval`.
    """
    found: dict[str, list[list[float]]] = collections.defaultdict(list)
    for answer in answers:
        equal = answer.get("equal", 1)
        recalls = [100 * min(max(k - answer["above"], 0), equal) / equal for k in _KS]
        for label in dict.fromkeys(answer["labels"]):
            found[label].append(recalls)
    frequent = sorted(found, key=lambda label: (-len(found[label]), label))[:_MOST_LABELS]
    return [
        [label, len(found[label]), *np.mean(found[label], axis=0).round(2).tolist()]
        for label in frequent
    ]


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
        "threshold": answer.get("threshold"),
        "turns": [
            [turn["speaker"], turn["text"], int(i in asked), turn.get("probability")]
            for i, turn in enumerate(turns)
        ],
    }


def _number(score: float | None) -> float | None:
    """JSON has no NaN."""
    return score if score is not None and math.isfinite(score) else None
