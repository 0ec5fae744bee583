"""The probability that a photo follows, turn by turn (PhotoChat, figure 4), as one HTML file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mmjax.errors import UserError
from mmjax.observe.document import bars, write_document

_BARS = 8
_HALF = 0.5  # the threshold of an argmax


def write_intent_page(
    path: epath.PathLike,
    answers: Sequence[Mapping[str, Any]],
    *,
    title: str,
    about: Mapping[str, str],
) -> None:
    """Writes the page: every dialogue, with a bar after each turn.

    Args:
      path: of the HTML file, local or in a bucket.
      answers: JSON values of `mmjax.tasks.intent`: "id", "shared_after", "turns" with "speaker",
        "text" and "probability", and perhaps the "threshold" from which on it means yes; 0.5 where
        it is missing.
      about: facts of the run for the header.
    """
    examples = [_example(answer, i) for i, answer in enumerate(answers)]
    thresholds = sorted({example["threshold"] for example in examples})
    write_document(
        path,
        "intent.js",
        {"examples": examples},
        title=title,
        about={**about, **_figures(examples)}
        | {"threshold": ", ".join(f"{t:.3g}" for t in thresholds)},
        search="Search dialogues",
        groups="How the dialogue was judged",
        key={
            "chance": "chance that a photo follows",
            "yes": "above the threshold",
            "found": "above it, and a photo follows",
        },
        figure=_course(answers),
        footer=(
            "Consecutive messages of one speaker are one turn. Too early: above the threshold, and "
            "no photo follows that turn. Missed: a photo follows, and it is below."
        ),
    )


def beside(
    answers: Iterable[Mapping[str, Any]], intent: Sequence[Mapping[str, Any]], place: str
) -> list[dict[str, Any]]:
    """Retrieval's answers with the probabilities that an intent model gave after their turns.

    A turn of intent joins consecutive messages of one speaker: its probability stands after the
    last of them.

    Args:
      answers: of `mmjax.tasks.retrieval`; intent: of `mmjax.tasks.intent`, from the file `place`.

    Raises:
      UserError: the file knows none of the dialogues, or other turns of one.
    """
    known = {answer["id"]: answer for answer in intent}
    found, hits = [], 0
    for answer in answers:
        # A dialogue that shares once has its own id, which may itself have a "#".
        told = known.get(answer["id"]) or known.get(answer["id"].rpartition("#")[0])
        if told is None:
            found.append(dict(answer))
            continue
        hits += 1
        turns = [dict(turn) for turn in answer["turns"]]
        said = [i for i, turn in enumerate(turns) if turn["text"].strip()]
        groups = itertools.groupby(said, key=lambda i: turns[i]["speaker"])
        # A later share of the same dialogue has more turns than intent has read.
        for (_, group), turn in zip(groups, told["turns"], strict=False):
            places = list(group)
            text = " ".join(turns[i]["text"].strip() for i in places)
            if not text.startswith(turn["text"]):
                raise UserError(
                    f"--intent={place}: {answer['id']} has other turns there: predict intent on "
                    "the same dataset and split."
                )
            turns[places[-1]]["probability"] = turn["probability"]
        found.append({**answer, "turns": turns, "threshold": told.get("threshold", _HALF)})
    if not hits:
        raise UserError(
            f"--intent={place} knows none of these dialogues: predict intent on the same dataset "
            "and split."
        )
    return found


def _example(answer: Mapping[str, Any], position: int) -> dict[str, Any]:
    """`wrong` is the largest distance of a probability from the truth, `early` counts turns."""
    after, threshold = answer["shared_after"], answer.get("threshold", _HALF)
    chances = [turn["probability"] for turn in answer["turns"]]
    said = [chance >= threshold for chance in chances]
    speaker = answer["turns"][after]["speaker"] if after is not None else None
    return {
        "position": position,
        "id": answer["id"],
        "threshold": threshold,
        "shares": after is not None,
        "missed": after is not None and not said[after],
        "early": sum(yes for i, yes in enumerate(said) if i != after),
        "wrong": max(abs(chance - (i == after)) for i, chance in enumerate(chances)),
        "sharer": speaker,
        "turns": [
            [turn["speaker"], turn["text"], 0, chance]
            for turn, chance in zip(answer["turns"], chances, strict=True)
        ],
    }


def _figures(examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Counts, and precision, recall and F1 at the threshold."""
    found = sum(e["shares"] and not e["missed"] for e in examples)
    said, real = found + sum(e["early"] for e in examples), sum(e["shares"] for e in examples)

    def percent(part: int, whole: int) -> str:
        return f"{100 * part / whole:.1f}" if whole else "–"

    return {
        "dialogues": f"{len(examples):,}",
        "turns": f"{sum(len(e['turns']) for e in examples):,}",
        "precision": percent(found, said),
        "recall": percent(found, real),
        "F1": percent(2 * found, said + real),
    }


def _course(answers: Sequence[Mapping[str, Any]]) -> str:
    """Mean probability by how many turns are left before the share."""
    shared = [
        [turn["probability"] for turn in answer["turns"]][::-1]
        for answer in answers
        if answer["shared_after"] is not None
    ]
    items = []
    for left in reversed(range(_BARS)):
        chances = [chances[left] for chances in shared if len(chances) > left]
        if chances:
            mean = float(np.mean(chances))
            text = "–" if math.isnan(mean) else f"{mean:.2f}"
            items.append((str(left) if left else "share", text, mean, "far" if left else "first"))
    return bars("Mean probability, by turns left before the share", items, "turns left:")
