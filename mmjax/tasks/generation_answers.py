"""What was written for the examples of a split, as JSON values and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

from mmjax.data.knowledge import facts
from mmjax.data.schema import Turn
from mmjax.data.splits import Split
from mmjax.observe.answers_page import write_answers_page
from mmjax.tasks.generation_examples import Goal

MOST_TURNS = 100


def told(
    goal: Goal, split: Split, texts: Sequence[str], *, knowledge: bool = False
) -> list[dict[str, Any]]:
    """Of every example: "id", its "dialogue", the "turns" that are read, "references", and the text
    as "answer"; with `knowledge` also "facts", all that are known, even without room for them."""
    found = []
    index = split.index
    for name, text, record, sub in zip(split.ids(), texts, index.record, index.sub, strict=True):
        dialogue = split.source[int(record)]
        turns = told_turns(dialogue.turns[: goal.read(int(sub))])
        right = [text.strip() for text in goal.references(dialogue.turns[int(sub)])]
        known = {"facts": list(facts(dialogue))} if knowledge else {}
        of = {"id": name, "dialogue": dialogue.id, **known}
        found.append({**of, "turns": turns, "references": right, "answer": text})
    return found


def told_turns(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The last `MOST_TURNS` of what was said and shown before, as JSON values.

    A dialogue of thousands of turns has thousands of examples, and they would repeat each other.
    """
    return [
        {"speaker": turn.speaker, "text": turn.text}
        | ({"photos": [photo.id for photo in turn.photos]} if turn.photos else {})
        for turn in turns[-MOST_TURNS:]
    ]


def write_told(
    path: epath.PathLike, split: Split, answers: Sequence[dict[str, Any]], title: str
) -> None:
    """An HTML page of what `told` tells, see `mmjax.observe.answers_page`."""
    shown = [{**a, "answers": [{"name": title, "text": a["answer"], "notes": []}]} for a in answers]
    write_answers_page(path, shown, title=title, about={"split": split.source.name})
