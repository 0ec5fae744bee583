"""Response generation: what does the agent answer? (JDDC 2.1, 4.1)"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mmjax.data.annotations import AGENT
from mmjax.data.dialogue_marks import DialogueMarks
from mmjax.data.examples import SkipRecord
from mmjax.data.schema import Dialogue, Turn
from mmjax.tasks.generation import GenerationTask
from mmjax.tasks.generation_examples import GenerationOptions
from mmjax.tasks.generation_model import ModelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseOptions(GenerationOptions):
    """Beside what all tasks have that write text:

    Attributes:
      role: who answers, such as "agent", where the dataset tells roles; None: whoever the dataset
        wants answers from, or else everybody.
      answers: "every" one of them, or the "last" of each dialogue.
    """

    role: str | None = None
    answers: Literal["every", "last"] = "every"


class Response:
    """The turns of who answers, from those before. See `Goal` for the members."""

    name = "response"

    def __init__(self, options: ResponseOptions):
        self.options = options

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"role": self.role, "answers": self.options.answers}

    @property
    def role(self) -> str | None:
        return self.options.role

    def turns(self, dialogue: Dialogue) -> Sequence[int]:
        role, chosen = self.role, dialogue.targets
        if chosen is None or role not in (None, AGENT):  # a dataset chooses among the agent's
            chosen = range(1, len(dialogue.turns))
        if role is not None:
            if role not in dialogue.roles:
                raise SkipRecord(f"nobody in it is called {role!r} (config.task.role)")
            chosen = [t for t in chosen if _role(dialogue, t) == role]
        said = [t for t in chosen if dialogue.turns[t].text.strip()]
        if not said:
            raise SkipRecord("nobody answers")
        return said if self.options.answers == "every" else said[-1:]

    def read(self, turn: int) -> int:
        return turn

    def references(self, turn: Turn) -> tuple[str, ...]:
        return (turn.text, *turn.references)

    def mark(self, turn: Turn, marks: DialogueMarks) -> int:
        return marks.speaker(turn.speaker)


def _role(dialogue: Dialogue, turn: int) -> str:
    speaker = dialogue.turns[turn].speaker
    return dialogue.roles[speaker] if speaker < len(dialogue.roles) else ""


def response_task(options: ResponseOptions, model: ModelOptions) -> GenerationTask:
    return GenerationTask(options, model, Response(options))


OPTIONS, MODEL_OPTIONS, TASK = ResponseOptions, ModelOptions, response_task
