"""What raters are asked: two questions of quality, or which error an answer makes.

The scale of three points and the four errors are those of JDDC 2.1's paper (Zhao et al., EMNLP
2022); the words that explain them are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """Attributes:
    name: of its column.
    choices: what may be written there -> what it means.
    is_scale: the choices are numbers of which a mean says something.
    """

    name: str
    choices: Mapping[str, str]
    is_scale: bool = True


QUESTIONNAIRES: Mapping[str, tuple[Question, ...]] = {
    "quality": (
        Question(
            "fluency",
            {
                "1": "cannot be understood",
                "2": "can be understood, with faults of language",
                "3": "reads as if a person had written it",
            },
        ),
        Question(
            "relevance",
            {
                "1": "does not answer what the customer wants",
                "2": "answers a part of it, or only in general",
                "3": "answers it",
            },
        ),
    ),
    "errors": (
        Question(
            "error",
            {
                "wrong object": "it speaks of another thing than the customer",
                "wrong aspect": "the thing is right, what is said of it was not asked",
                "over-general": "it would fit nearly every question",
                "meaningless": "it says nothing, or contradicts itself",
            },
            is_scale=False,
        ),
    ),
}
