"""What a retrieval model answered, as one HTML file: dialogues, right photos, best candidates."""

from __future__ import annotations

import base64
import collections
import functools
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from mmjax.curation.whitelist import Entries, Whitelist, coco_entries, load_whitelist
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
        histogram and the recalls per label and category count all answers.
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
        more="".join(
            [
                _recalls_table("category", "categories", data["categories"]),
                _recalls_table("label", "labels", data["labels"]),
                _selection(len(answers), len(chosen), worst),
            ]
        ),
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


def _recalls_table(kind: str, name: str, rows: Collection[Any]) -> str:
    """Of the right photo's kinds, such as its labels; the script fills it."""
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("examples", "R@1", "R@5", "R@10"))
    return (
        f'<details class="recalls"><summary>Recall by {kind} of the right photo</summary><div>'
        f'<table><thead><tr><th scope="col">{kind}</th>{heads}</tr></thead>'
        f'<tbody id="{name}"></tbody></table></div></details>'
    )


def _selection(total: int, shown: int, worst: int) -> str:
    """The sentence that says which part of the answers is in the page."""
    if shown == total:
        return ""
    sample = shown - worst
    rest = f", and {sample:,} of the others, evenly spaced by rank" if sample else ""
    return (
        f'<p class="selection"><b>{shown:,} of {total:,} examples are here</b>, to keep the file '
        f"small: the {worst:,} most wrong{rest}. The histogram and the recalls count all.</p>"
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
        "categories": _categories(answers),
    }


def _labels(answers: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Rows as of `_recalls`, the frequent labels of right photos first."""
    found = _recalls(answers, dict.fromkeys)
    frequent = sorted(found, key=lambda label: (-found[label][0], label))[:_MOST_LABELS]
    return [[label, *found[label]] for label in frequent]


def _categories(answers: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The same of categories that there are, in the order of PhotoChat's list."""
    found = _recalls(answers, _categories_of)
    return [[group, *found[group]] for group in _listed()[0].groups if group in found]


def _recalls(
    answers: Sequence[Mapping[str, Any]], names_of: Callable[[Sequence[str]], Collection[str]]
) -> dict[str, list[Any]]:
    """Name -> [examples, mean recall at 1, 5 and 10 in percent].

    Recall is expected over the order of equal scores, as in `mmjax.metrics.retrieval`.

    Args:
      names_of: from the right photo's labels.
    """
    found: dict[str, list[list[float]]] = collections.defaultdict(list)
    for answer in answers:
        equal = answer.get("equal", 1)
        recalls = [100 * min(max(k - answer["above"], 0), equal) / equal for k in _KS]
        for name in names_of(answer["labels"]):
            found[name].append(recalls)
    return {
        name: [len(rows), *np.mean(rows, axis=0).round(2).tolist()] for name, rows in found.items()
    }


def _categories_of(labels: Collection[str]) -> tuple[str, ...]:
    """PhotoChat's groups of labels ("people", "food", ...) of a photo with these, see `Whitelist`.

    COCO's classes count as the entries that stand for them; other labels have no category.
    """
    whitelist, entries = _listed()
    return whitelist.groups_in([e for label in labels for e in entries.get(label, ())])


@functools.cache
def _listed() -> tuple[Whitelist, Entries]:
    whitelist = load_whitelist()
    return whitelist, coco_entries(whitelist)


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
        "categories": _categories_of(answer["labels"]),
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
