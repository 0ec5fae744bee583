"""Query rewriting: what did the customer mean, said so that nobody needs the turns before?
(JDDC 2.1, 4.2)"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.data.dialogue_marks import DialogueMarks
from mmjax.data.examples import SkipRecord
from mmjax.data.schema import Dialogue, Turn
from mmjax.tasks.generation import GenerationTask
from mmjax.tasks.generation_examples import GenerationOptions
from mmjax.tasks.generation_model import ModelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewriteOptions(GenerationOptions):
    """What all tasks have that write text."""


class Rewrite:
    """Annotated rewrites, from the turns before and the query. See `Goal` for the members."""

    name = "rewrite"
    identity: Mapping[str, Any] = {}

    def turns(self, dialogue: Dialogue) -> Sequence[int]:
        found = [k for k, turn in enumerate(dialogue.turns) if self.references(turn)]
        if not found:
            raise SkipRecord("nothing in it is rewritten")
        return found

    def read(self, turn: int) -> int:
        return turn + 1

    def references(self, turn: Turn) -> tuple[str, ...]:
        return tuple(text for text in turn.rewrites or () if text.strip())

    def mark(self, turn: Turn, marks: DialogueMarks) -> int:
        return marks.rewrite


def rewrite_task(options: RewriteOptions, model: ModelOptions) -> GenerationTask:
    return GenerationTask(options, model, Rewrite())


OPTIONS, MODEL_OPTIONS, TASK = RewriteOptions, ModelOptions, rewrite_task
