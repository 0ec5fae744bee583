"""The sessions of "photo_sessions": what is asked does not tell the kind of thing, the photo does.

A customer shows a photo and asks; the agent's answer names the kind of thing that it shows. Every
word but that one is drawn by names alone, never by the kind: who reads texts only can guess it, at
best as well as by always saying the same.

A photo of train is told of several times. Elsewhere photos come in couples of two kinds, and both
are told of once, in the same words: the two sides of a minimal pair. A photo that is left over
there is told of nowhere.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.data.annotations import AGENT, CUSTOMER
from mmjax.data.couples import couples
from mmjax.data.schema import Dialogue, Photo, Turn

TELLINGS = 4  # of a photo of train

# Part of the dataset's digest: raise it when the same photos would be told of in other words.
FORMAT = 1


def sessions(split: str, kinds: Mapping[str, str]) -> Iterator[Dialogue]:
    """The sessions of a split.

    Args:
      kinds: photo id -> what it shows, of the photos of the split.
    """
    names = sorted(kinds)
    if split == "train":
        for name in names:
            for telling in range(TELLINGS):
                yield session(f"{name}#{telling}", name, kinds[name], f"{name} {telling}")
        return
    for one, other in couples(names, [kinds[name] for name in names]):
        words = f"{names[one]} {names[other]}"
        for name in (names[one], names[other]):
            yield session(f"{name}#0", name, kinds[name], words)


def session(name: str, photo: str, kind: str, words: str) -> Dialogue:
    """One session. `words`: what its words are drawn by."""
    rng, say = random.Random(f"mmjax photo sessions {FORMAT} {words}"), _phrases()
    shown, turns = Photo(photo, (kind,)), []
    if rng.random() < 0.4:
        turns += [Turn(speaker, text) for speaker, text in enumerate(_pick(rng, say["greeting"]))]
    for chance in (0.6, 0.3):
        if rng.random() < chance:
            turns.append(Turn(0, _filled(rng, _pick(rng, say["remark"]))))
    topic = _pick(rng, say["topics"])
    question, answer = _pick(rng, topic["questions"]), _pick(rng, topic["answers"])
    if rng.random() < 0.5:
        turns += [Turn(0, question, (shown,))]
    else:
        turns += [Turn(0, "", (shown,)), Turn(0, question)]
    turns.append(Turn(1, answer.format(kind=kind)))
    last = len(turns) - 1
    return Dialogue(name, tuple(turns), roles=(CUSTOMER, AGENT), targets=(last,))


def _filled(rng: random.Random, text: str) -> str:
    return text.format(
        years=rng.randint(2, 9), price=rng.randint(10, 99), digits=rng.randint(100, 999)
    )


def _pick(rng: random.Random, things: list[Any]) -> Any:
    return things[int(rng.random() * len(things))]


@functools.cache
def _phrases() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("phrases.json").read_text("utf-8"))
