"""Reads what `--mode=predict` wrote: a JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from mmjax.errors import UserError

# task -> keys of an answer, with the kinds of their values.
KEYS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "retrieval": {
        "id": str,
        "turns": list,
        "asked": list,
        "photo": str,
        "labels": list,
        "above": int,
        "equal": int,
        "top": list,
    },
    "intent": {"id": str, "turns": list, "shared_after": (int, type(None))},
    # The turns before the answer, what people answered, and what the system does.
    "generation": {"id": str, "turns": list, "references": list, "answer": str},
}
# task -> its lists of objects, with the keys of each.
_PARTS: Mapping[str, Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "retrieval": {
        "turns": {"speaker": int, "text": str},
        "top": {"photo": str, "labels": list},
    },
    "intent": {"turns": {"speaker": int, "text": str, "probability": (int, float)}},
    "generation": {"turns": {"speaker": int, "text": str}},
}
# task -> its lists of texts.
_TEXTS: Mapping[str, tuple[str, ...]] = {"generation": ("references",)}


def read_answers(path: epath.PathLike, task: str) -> list[dict[str, Any]]:
    """The answers in a file, in its order.

    Raises:
      UserError: it is not there, empty, damaged, or not of the task.
    """
    path = epath.Path(path)
    try:
        # Texts may hold other characters that Unicode calls line ends.
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read ({reason}): give a file that --mode=predict wrote, such as "
            "RUN/predictions/dev.jsonl."
        ) from error
    if lines == [""]:
        raise UserError(f"{path} holds no answer: run --mode=predict again.")
    return [_answer(line, task, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]


def _answer(line: str, task: str, place: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is no JSON ({error}): run --mode=predict again.") from error
    if (
        not _has(answer, KEYS[task])
        or not all(_has(part, keys) for name, keys in _PARTS[task].items() for part in answer[name])
        or not all(isinstance(x, str) for name in _TEXTS.get(task, ()) for x in answer[name])
    ):
        raise UserError(
            f"{place} is no answer of a {task} run: give predictions of a {task} model, made by "
            "this version."
        )
    return answer


def _has(value: Any, keys: Mapping[str, type | tuple[type, ...]]) -> bool:
    return isinstance(value, dict) and all(
        key in value and isinstance(value[key], kind) for key, kind in keys.items()
    )
