"""The development set of JDDC 2019: sessions with a context, questions, and three answers to each.

A session stands between `<session ID>` and `</session ID>`. In the questions' file it has the
context, "Q:" and "A:" followed by a tab, between `<context>` and `</context>`, then `<Qn>...</Qn>`;
in the answers' file one line per question. "<sep>" stands between the answers of three people,
"!@@@!" between the messages of one, and "NULL" for who did not answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mmjax.data.annotations import AGENT, CUSTOMER
from mmjax.data.schema import Dialogue, Turn
from tfds_builders.checks import BadRecordError, Place
from tfds_builders.text_lines import text_lines

_BEGIN, _END = re.compile(r"<session (\S+)>"), re.compile(r"</session (\S+)>")
_SAID = re.compile(r"([QA]):\t?(.*)", re.DOTALL)
_QUESTION = re.compile(r"<Q(\d+)>(.*)</Q\1>", re.DOTALL)
_PEOPLE, _MESSAGES, _NOTHING = "<sep>", "!@@@!", "NULL"

Lines = list[tuple[Place, str]]


def read(questions: Any, answers: Any) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The sessions in the order of the questions' file; both are (path, SHA-256)."""
    answered = {name: (place, lines) for name, place, lines in _sessions(*answers)}
    for name, place, lines in _sessions(*questions):
        _, answer = answered.pop(name, (place, []))
        try:
            for side in (lines, answer):
                if isinstance(side, BadRecordError):
                    raise side
            yield name, parse(name, lines, answer, place)
        except BadRecordError as bad:
            yield name, bad
    for name, (place, lines) in answered.items():
        if isinstance(lines, BadRecordError):
            yield f"answers {name}", lines
        elif lines:
            yield f"answers {name}", BadRecordError(f"{place}: nothing asks for these answers")


def parse(name: str, lines: Lines, answers: Lines, place: Place) -> Dialogue:
    """One session. The answers to its questions are to be said; the first person's is the text.

    Raises BadRecordError for lines of another form, and where the numbers of questions and answers
    differ.
    """
    turns: list[Turn] = []
    asked: list[str] = []
    for where, line in lines:
        if line in ("<context>", "</context>"):
            continue
        if question := _QUESTION.fullmatch(line):
            asked.append(question[2])
        elif (said := _SAID.fullmatch(line)) and not asked:
            # The session went on after the first person's answer.
            context = _turn(1 if said[1] == "A" else 0, said[2])
            turns += [replace(turn, references=()) for turn in context]
        else:
            raise BadRecordError(f"{where}: it is no part of a session: {line[:40]!r}")
    if len(asked) != len(answers):
        raise BadRecordError(
            f"{place}: session {name!r} has {len(asked)} questions and {len(answers)} answers"
        )
    targets = []
    for question, (_, answer) in zip(asked, answers, strict=True):
        turns += _turn(0, question)
        said = _turn(1, answer)
        targets += [len(turns)] if said and turns else []
        turns += said
    return Dialogue(name, tuple(turns), roles=(CUSTOMER, AGENT), targets=tuple(targets))


def _turn(speaker: int, line: str) -> list[Turn]:
    """One turn, whose messages are on lines of their own; none where nobody answered."""
    people = [
        "\n".join(message.strip() for message in text.split(_MESSAGES) if message.strip())
        for text in line.split(_PEOPLE)
    ]
    first, *others = [text for text in people if text and text != _NOTHING] or [""]
    return [Turn(speaker, first, references=tuple(others))] if first else []


def _sessions(path: Any, sha256: str) -> Iterator[tuple[str, Place, Lines | BadRecordError]]:
    """(name, place, its lines with text, or what is wrong with one)."""
    name, start, inside = "", None, []
    for place, line in text_lines(path, sha256):
        bad = isinstance(line, BadRecordError)
        text = "" if bad else line.strip()
        begin, end = _BEGIN.fullmatch(text), _END.fullmatch(text)
        if start is not None and (begin or (end and end[1] != name)):
            yield name, start, BadRecordError(f"{start}: session {name!r} does not end")
            start = None
        if begin:
            name, start, inside = begin[1], place, []
        elif start is not None and end:
            yield name, start, next((x for _, x in inside if not isinstance(x, str)), inside)
            start = None
        elif start is not None and (text or bad):
            inside.append((place, line if bad else text))
        elif text or bad:
            yield str(place), place, BadRecordError(f"{place}: it is in no session: {text[:40]!r}")
    if start is not None:
        yield name, start, BadRecordError(f"{start}: session {name!r} does not end")
