"""What two retrieval models answered to the same queries, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mmjax.observe.document import bars, write_document

_TOP = 5
_CELLS = (("only A", "near"), ("only B", "far"), ("both", "first"), ("neither", "lost"))


def write_compare_page(
    path: epath.PathLike,
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    *,
    title: str,
    about: Mapping[str, str],
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file, local or in a bucket.
      pairs: the answers of A and of B to each query, JSON values of `mmjax.tasks.retrieval`.
      about: facts for the header.
    """
    data = _data(pairs)
    counts = [0] * len(_CELLS)
    for example in data["examples"]:
        a, b = (rank <= 1 for rank in example["ranks"])
        counts[2 if a and b else 3 if not (a or b) else 0 if a else 1] += 1
    items = [
        (name, f"{count:,}", count / max(1, *counts), tone)
        for (name, tone), count in zip(_CELLS, counts, strict=True)
    ]
    write_document(
        path,
        "compare.js",
        data,
        title=title,
        about=about,
        search="Search dialogues and labels",
        groups="Who has the right photo",
        key={"asked": "the query", "right": "the right photo"},
        figure=bars("The right photo is first", items, "for"),
        footer=(
            "Rank: the expected one over the order of equal scores, 1 being the best. Marked are "
            "the turns that A asked with."
        ),
    )


def expected_rank(answer: Mapping[str, Any]) -> float:
    """Rank of the right photo, from 1, over random orders of the candidates with its score."""
    return answer["above"] + (answer["equal"] + 1) / 2


def _data(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """What the script draws; photos are a table that examples point into."""
    photos: dict[tuple[str, tuple[str, ...]], int] = {}

    def index(photo: Mapping[str, Any]) -> int:
        return photos.setdefault((photo["photo"], tuple(photo["labels"])), len(photos))

    examples = []
    for position, (a, b) in enumerate(pairs):
        asked = set(a["asked"])
        examples.append(
            {
                "position": position,
                "id": a["id"],
                "ranks": [expected_rank(a), expected_rank(b)],
                "photo": index(a),
                "top": [[index(photo) for photo in side["top"][:_TOP]] for side in (a, b)],
                "sharer": a.get("sharer"),
                "turns": [
                    [turn["speaker"], turn["text"], int(i in asked), None]
                    for i, turn in enumerate(a["turns"])
                ],
            }
        )
    return {
        "examples": examples,
        "photos": [{"id": name, "labels": labels} for name, labels in photos],
    }
