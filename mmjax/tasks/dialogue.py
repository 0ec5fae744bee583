"""Responses and rewrites at once: one GPT answers and says what was meant (JDDC 2.1, 4.1 and 4.2).

A task more is a field more of `DialogueOptions` and `DialogueMixture`, a line of `dialogue_task`,
and a mark of its own (`mmjax.data.dialogue_marks`).
"""

from __future__ import annotations

import dataclasses

from mmjax.errors import UserError
from mmjax.options import CommonDataOptions
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.mixture import Mixture, MixtureOptions, ShareOptions
from mmjax.tasks.response import ResponseOptions, response_task
from mmjax.tasks.rewrite import RewriteOptions, rewrite_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueOptions:
    """The options of each task."""

    response: ResponseOptions = ResponseOptions()  # noqa: RUF009 - it is frozen
    rewrite: RewriteOptions = RewriteOptions()  # noqa: RUF009 - it is frozen


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueMixture(MixtureOptions):
    """What each task brings."""

    response: ShareOptions = ShareOptions(dataset="jddc_pairs")  # noqa: RUF009 - it is frozen
    rewrite: ShareOptions = ShareOptions(dataset="utterance_rewrite")  # noqa: RUF009 - it is frozen


def dialogue_task(options: DialogueOptions, model: ModelOptions) -> Mixture:
    """Raises UserError where the tasks would see photos in different ways."""
    for name in ("image", "max_images") if model.image is not None else ():
        if getattr(options.response, name) != getattr(options.rewrite, name):
            raise UserError(
                f"config.task.response.{name} and config.task.rewrite.{name} differ, and one "
                "network sees the photos of both: give them one value."
            )
    response, rewrite = options.response, options.rewrite
    return Mixture(
        {"response": response_task(response, model), "rewrite": rewrite_task(rewrite, model)}
    )


OPTIONS, MODEL_OPTIONS, TASK = DialogueOptions, ModelOptions, dialogue_task
SECTIONS = {"data": CommonDataOptions, "mixture": DialogueMixture}
