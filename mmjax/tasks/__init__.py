"""The tasks by name. To add one: a file here, and a line in `TASKS`."""

from __future__ import annotations

import importlib
from typing import Any

from mmjax.config import suggestion
from mmjax.errors import UserError

# name -> module with OPTIONS and MODEL_OPTIONS (dataclasses) and TASK (a class over both); of a
# mixture also SECTIONS, the dataclasses of its further sections of a config.
TASKS = {
    "dialogue": "mmjax.tasks.dialogue",
    "intent": "mmjax.tasks.intent",
    "rerank": "mmjax.tasks.rerank",
    "response": "mmjax.tasks.response",
    "response_ranking": "mmjax.tasks.response_ranking",
    "retrieval": "mmjax.tasks.retrieval",
    "rewritable": "mmjax.tasks.rewritable",
    "rewrite": "mmjax.tasks.rewrite",
}


def task_module(name: str) -> Any:
    """The module of a task. Raises UserError for an unknown name."""
    if name not in TASKS:
        raise UserError(f"config.task_name={name!r} is no task{suggestion(name, TASKS)}.")
    return importlib.import_module(TASKS[name])
