"""The answers of several systems to the same questions, from files of predictions.

A line is {"id", "turns": [{"speaker": 0, "text": ...}, ...], "references": [...], "answer": ...}:
the turns before the answer, the last of which asks; what people answered; what the system answers.
"dialogue", the id of the dialogue that the question is of, may stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmjax.answers import read_answers
from mmjax.errors import UserError


@dataclass(frozen=True)
class Asked:
    """Attributes:
    id: of the question.
    dialogue: id of its dialogue; of a question of which no file says it, the question's own.
    turns: before the answer, {"speaker", "text"} each.
    references: what people answered.
    answers: system -> its answer.
    """

    id: str
    dialogue: str
    turns: Sequence[Mapping[str, Any]]
    references: Sequence[str]
    answers: Mapping[str, str]


def read_systems(named: Sequence[str]) -> list[Asked]:
    """The questions that all systems answer, in the order of the first one.

    Args:
      named: NAME=FILE of each system.

    Raises:
      UserError: a file cannot be read, or two systems do not answer the same questions.
    """
    files: dict[str, dict[str, dict[str, Any]]] = {}
    for pair in named:
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UserError(
                f"--system={pair}: write NAME=FILE, such as gpt=runs/gpt/predictions/test.jsonl."
            )
        if name in files:
            raise UserError(f"--system={pair}: there is another system {name!r}; choose two names.")
        answers = read_answers(path, "generation")
        files[name] = {answer["id"]: answer for answer in answers}
        if len(files[name]) < len(answers):
            raise UserError(f"{path} answers a question twice: run --mode=predict again.")
    first, *others = files
    for other in others:
        alone = sorted(files[first].keys() ^ files[other].keys())
        if alone:
            raise UserError(
                f"{first} and {other} answer other questions ({alone[0]} is only in one of them): "
                "predict with both on the same dataset and split."
            )
    asked = []
    for name, answer in files[first].items():
        theirs = {system: answers[name] for system, answers in files.items()}
        for system, other in theirs.items():
            if [t["text"] for t in other["turns"]] != [t["text"] for t in answer["turns"]]:
                raise UserError(
                    f"{first} and {system} have other turns in {name}: predict with both on the "
                    "same dataset and split."
                )
        said = {system: other["answer"] for system, other in theirs.items()}
        dialogue = _dialogue(name, theirs)
        asked.append(Asked(name, dialogue, answer["turns"], answer["references"], said))
    return asked


def _dialogue(name: str, theirs: Mapping[str, Mapping[str, Any]]) -> str:
    """The dialogue that the systems' answers to a question say it is of."""
    named = [answer["dialogue"] for answer in theirs.values() if "dialogue" in answer]
    if not all(isinstance(dialogue, str) and dialogue == named[0] for dialogue in named):
        raise UserError(
            f'"dialogue" of {name} is no text, or not the same for {" and ".join(theirs)}: predict '
            "with all on the same dataset and split."
        )
    return named[0] if named else name
