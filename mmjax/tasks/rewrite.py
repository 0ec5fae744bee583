"""Query rewriting: what did the customer mean, said so that nobody needs the turns before?
(JDDC 2.1, 4.2)"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.data.dialogue_marks import DialogueMarks
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.featurize import Ragged
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
    role = None
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


class RewriteText(Rewrite):
    """The examples alone, for systems that read no features. See `Featurizer` for the members."""

    ragged: Mapping[str, Ragged] = {}
    key_names, cached = (), ()
    photos = boxes = False
    inputs = frozenset()
    identity: Mapping[str, Any] = {"task": "rewrite"}

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        return [Example(turn, {}, {}) for turn in self.turns(dialogue)]


def rewrite_task(options: RewriteOptions, model: ModelOptions) -> GenerationTask:
    return GenerationTask(options, model, Rewrite())


OPTIONS, MODEL_OPTIONS, TASK, TEXT = RewriteOptions, ModelOptions, rewrite_task, RewriteText
