"""Generated answers in their dialogues, as one HTML file: for raters, and for case studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mmjax.observe.document import write_document


def write_answers_page(
    path: epath.PathLike,
    examples: Sequence[Mapping[str, Any]],
    *,
    title: str,
    about: Mapping[str, str],
) -> None:
    """Writes the page.

    Args:
      path: of the HTML file, local or in a bucket.
      examples: "id"; "turns" with "speaker", "text" and perhaps "photos", ids; "references", texts;
        "answers" with "name", "text" and "notes", short texts beside the name.
      about: facts for the header.
    """
    drawn = [
        {
            "position": position,
            "id": example["id"],
            "sharer": None,
            "turns": [[t["speaker"], turn_text(t), 0, None] for t in example["turns"]],
            "references": list(example["references"]),
            "answers": [dict(answer) for answer in example["answers"]],
        }
        for position, example in enumerate(examples)
    ]
    write_document(
        path,
        "answers.js",
        {"examples": drawn},
        title=title,
        about=about,
        search="Search dialogues and answers",
        groups="Length of the dialogue",
    )


def turn_text(turn: Mapping[str, Any]) -> str:
    """What a turn says, with its photos by their ids."""
    photos = (f"[photo {photo}]" for photo in turn.get("photos", ()))
    return " ".join(filter(None, [turn["text"], *photos]))
