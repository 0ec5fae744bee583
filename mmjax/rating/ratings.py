"""Reads filled sheets with their key, and refuses what would make a wrong table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from mmjax.errors import UserError
from mmjax.rating.questions import QUESTIONNAIRES, Question
from mmjax.rating.sheets import KEY_VERSION

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Ratings:
    """Attributes:
    questions: what was asked.
    items: item -> {"id": question's, "dialogue": its dialogue's, "systems": those that gave the
      answer}.
    given: question's name -> item -> what each rater chose, in the order of the sheets.
    """

    questions: tuple[Question, ...]
    items: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Mapping[str, tuple[str, ...]]]


def read_ratings(key: epath.Path, sheets: Sequence[epath.Path]) -> Ratings:
    """The ratings of all sheets.

    Raises:
      UserError: a file cannot be read, belongs to other sheets, was filled in twice, or has an item
        too few, too many or twice, or a rating that is missing or none of the choices.
    """
    told = _read_key(key)
    questions = QUESTIONNAIRES[told["questionnaire"]]
    if len({path.resolve() for path in sheets}) < len(sheets):
        raise UserError("a sheet is named twice: name each rater's once.")
    if len(sheets) != told["raters"]:
        raise UserError(
            f"{key} is of {told['raters']} raters and {len(sheets)} sheets are named: name all."
        )
    read = [_read_sheet(path, told, questions) for path in sheets]
    given = {
        question.name: {item: tuple(rows[item][k] for rows in read) for item in told["items"]}
        for k, question in enumerate(questions)
    }
    return Ratings(questions, told["items"], given)


def _read_key(path: epath.Path) -> dict[str, Any]:
    try:
        key = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); name the key that export wrote.") from error
    kinds = {"questionnaire": str, "raters": int, "digest": str, "items": dict}
    whole = isinstance(key, dict) and key.get("version") == KEY_VERSION
    if not whole or not all(isinstance(key.get(name), kind) for name, kind in kinds.items()):
        raise UserError(f"{path} is no key of rating sheets; name the one that export wrote.")
    if key["questionnaire"] not in QUESTIONNAIRES:
        raise UserError(f"{path}: there is no questionnaire {key['questionnaire']!r}.")
    for item in key["items"].values():
        systems = item.get("systems") if isinstance(item, dict) else None
        ids = (item.get("id"), item.get("dialogue")) if systems else ()
        if not systems or not isinstance(systems, list) or not all(isinstance(i, str) for i in ids):
            raise UserError(f"{path} is damaged; name the key that export wrote.")
    return key


def _read_sheet(
    path: epath.Path, key: Mapping[str, Any], questions: Sequence[Question]
) -> dict[str, tuple[str, ...]]:
    """Item -> its ratings in the order of the questions."""
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    columns = ("item", *(question.name for question in questions), "sheet")
    found: dict[str, tuple[str, ...]] = {}
    try:
        missing = [name for name in columns if name not in (rows.fieldnames or ())]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}; keep the sheet's columns.")
        for row in rows:
            # A spreadsheet makes a number of it.
            name = (row["item"] or "").strip().zfill(5)
            where = f"{path}, item {name}"
            if name not in key["items"] or (row["sheet"] or "").strip() != key["digest"]:
                raise UserError(f"{where} is of other sheets than the key: name their own key.")
            if name in found:
                raise UserError(f"{where} is there twice: leave one out.")
            found[name] = tuple(_choice(row[q.name] or "", q, where) for q in questions)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num} is no CSV ({error}): save it as CSV."
        ) from error
    if left := sorted(key["items"].keys() - found.keys()):
        raise UserError(f"{path} has no item {left[0]} ({len(left):,} are missing): keep all rows.")
    return found


def _choice(text: str, question: Question, where: str) -> str:
    text = text.strip().lower()
    text = text.removesuffix(".0") if question.is_scale else text
    if not text:
        raise UserError(f"{where}: {question.name} is not rated; rate every item.")
    if text not in question.choices:
        raise UserError(
            f"{where}: {question.name} is {text!r}; choose of {', '.join(question.choices)}."
        )
    return text


def _text(path: epath.Path) -> str:
    try:
        if path.stat().length > _MAX_BYTES:
            raise UserError(f"{path} is larger than {_MAX_BYTES:,} bytes: it is no such file.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as CSV in UTF-8.") from error
