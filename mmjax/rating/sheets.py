"""Blind rating sheets: which system wrote an answer is in the key alone.

A row is an answer to a question; systems that give the same answer share it, so that equal answers
have equal ratings. Rows are shuffled, for each rater anew.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from mmjax.errors import UserError
from mmjax.observe.answers_page import turn_text, write_answers_page
from mmjax.rating.questions import QUESTIONNAIRES
from mmjax.rating.systems import Asked

KEY_VERSION = 2
# A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Item:
    """One answer to be rated.

    Attributes:
      name: what stands in the sheets.
      asked: the question.
      systems: those that gave the answer.
    """

    name: str
    asked: Asked
    systems: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.asked.answers[self.systems[0]]


def drawn_items(asked: Sequence[Asked], count: int, seed: int) -> list[Item]:
    """`count` questions, drawn by the seed, and all different answers to each, shuffled.

    Raises UserError where there are not as many questions.
    """
    if not 1 <= count <= len(asked):
        raise UserError(
            f"--count={count}: there are {len(asked):,} questions; choose a number from 1 to that."
        )
    rng = np.random.default_rng(seed)
    chosen = [asked[k] for k in sorted(rng.permutation(len(asked))[:count])]
    rows = []
    for question in chosen:
        by_answer: dict[str, list[str]] = {}
        for system, answer in question.answers.items():
            by_answer.setdefault(answer.strip(), []).append(system)
        rows += [(question, tuple(systems)) for systems in by_answer.values()]
    order = rng.permutation(len(rows))
    return [Item(f"{number:05}", *rows[k]) for number, k in enumerate(order, start=1)]


def write_sheets(
    folder: epath.Path, key: epath.Path, items: Sequence[Item], about: Mapping[str, Any]
) -> list[epath.Path]:
    """Writes a sheet per rater, the page with the dialogues, and the key.

    Args:
      folder: for the raters; key: a file elsewhere, which they must not see.
      about: "questionnaire", "raters", "seed", "references": whether raters see them.

    Returns:
      The sheets.

    Raises:
      UserError: something is there already, the key lies in the folder, or cannot be written.
    """
    if folder.resolve() in (key.resolve(), *key.resolve().parents):
        raise UserError(f"--key={key} lies in {folder}, which raters see; put it elsewhere.")
    for path in (folder, key):
        if path.exists():
            raise UserError(f"{path} is there already; ratings may belong to it: choose another.")
    sheets = [folder / f"rater_{number}.csv" for number in range(1, about["raters"] + 1)]
    try:
        folder.mkdir(parents=True)
        for number, path in enumerate(sheets, start=1):
            order = np.random.default_rng([about["seed"], number]).permutation(len(items))
            # Spreadsheets take a file for UTF-8 by its first bytes.
            text = _csv([items[k] for k in order], about)
            path.write_bytes(text.encode("utf-8-sig"))
        write_page(folder / "dialogues.html", items, about)
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(json.dumps(_key(items, about), ensure_ascii=False, indent=1), "utf-8")
    except OSError as error:
        raise UserError(f"{folder} or {key} cannot be written ({error.strerror}).") from error
    return sheets


def write_page(path: epath.Path, items: Sequence[Item], about: Mapping[str, Any]) -> None:
    """The items with their whole dialogues, for reading; ratings are written into the sheets."""
    questions = QUESTIONNAIRES[about["questionnaire"]]
    facts = {
        f"{question.name}: {choice}": meaning
        for question in questions
        for choice, meaning in question.choices.items()
    }
    examples = [
        {
            "id": f"item {item.name}",
            "turns": item.asked.turns,
            "references": item.asked.references if about["references"] else [],
            "answers": [{"name": "answer", "text": item.answer, "notes": []}],
        }
        for item in sorted(items, key=lambda item: item.name)
    ]
    write_answers_page(path, examples, title="Answers to rate", about=facts)


def digest(items: Sequence[Item]) -> str:
    """Of what raters see, so that a sheet is not read with another key."""
    text = json.dumps([[i.name, i.asked.id, i.answer] for i in sorted(items, key=lambda i: i.name)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(items: Sequence[Item], about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": KEY_VERSION,
        **about,
        "digest": digest(items),
        "items": {
            item.name: {
                "id": item.asked.id,
                "dialogue": item.asked.dialogue,
                "systems": list(item.systems),
            }
            for item in sorted(items, key=lambda item: item.name)
        },
    }


def _csv(items: Sequence[Item], about: Mapping[str, Any]) -> str:
    questions = [question.name for question in QUESTIONNAIRES[about["questionnaire"]]]
    seen = ["references"] if about["references"] else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["item", *questions, "query", "answer", *seen, "sheet"])
    name = digest(items)
    for item in items:
        query = turn_text(item.asked.turns[-1]) if item.asked.turns else ""
        shown = ["\n".join(item.asked.references)] if about["references"] else []
        cells = [query, item.answer, *shown]
        writer.writerow([item.name, *("" for _ in questions), *map(_plain, cells), name])
    return out.getvalue()


def _plain(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
