"""The dialogues of "photochat/demo": two people talk, and one of them shares a photo of a scene.

The sharer (speaker 0) alludes to the scene: the kind by what goes with it ("I spent an hour
throwing sticks"), its colour, number, place, the setting, something beside it. The words of the
labels are rare, and the other speaker drops wrong ones, so word overlap says little, whereas a
model that learns what goes with what can narrow the labels down to a kind, and with the photo's
pixels much further: who understands every word and sees every detail is left with hardly more than
the one photo. A scene is told once.

This is the second version of the demo (the seeds say "mmjax demo dialogues 2"), see `demo_scenes`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmjax.data.schema import Dialogue, Photo, Turn
from tfds_builders.photochat.demo_scenes import KINDS, PROPS, SCENES, Scene, pick, scene

TELLINGS = {"train": 1, "dev": 1, "test": 1}

# `digest()`, written down so that opening the demo need not generate it; a test compares the two.
DIGEST = "57bde5d902d174208c3a7998105026b1c183dffa6f60d65aec34fadb063d8885"


def read(content: Any, split: str) -> Iterator[tuple[str, Dialogue]]:
    """All dialogues of a split with their keys, in a fixed order; `content` is not needed."""
    for index in range(SCENES[split]):
        for telling in range(TELLINGS[split]):
            told = dialogue(split, index, telling)
            yield told.id, told


def digest() -> str:
    """SHA-256 over every scene and every dialogue: the demo is frozen."""
    content = {
        split: [
            [asdict(scene(split, index)) for index in range(SCENES[split])],
            [_content(told) for _, told in read(None, split)],
        ]
        for split in SCENES
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _content(told: Dialogue) -> list[Any]:
    # By name: a field that the schema gets one day changes nothing here.
    return [told.id] + [
        [turn.speaker, turn.text, [[photo.id, photo.labels, photo.url] for photo in turn.photos]]
        for turn in told.turns
    ]


def dialogue(split: str, index: int, telling: int = 0) -> Dialogue:
    """One dialogue about scene number `index`, the photo shared at one of its last turns."""
    shown = scene(split, index)
    rng = random.Random(f"mmjax demo dialogues 2 {split} {index} {telling}")
    say = _phrases()
    photo = Photo(shown.id, shown.labels, f"demo://scenes/{split}/{index}")
    turns = [
        *_opening(rng, say),
        *_allusions(rng, say, shown),
        *_question(rng, say),
        Turn(0, "", (photo,)),
        *_reaction(rng, say, shown),
    ]
    return Dialogue(f"{shown.id}-{telling}", tuple(turns))


def _opening(rng: random.Random, say: dict[str, Any]) -> list[Turn]:
    speaker = int(rng.random() < 0.5)
    turns = [Turn(abs(speaker - k), text) for k, text in enumerate(pick(rng, say["greeting"]))]
    if rng.random() < 0.4:
        turns.append(Turn(speaker, pick(rng, say["chat"])))
    return turns


def _allusions(rng: random.Random, say: dict[str, Any], shown: Scene) -> list[Turn]:
    hints = [pick(rng, say["kind"][shown.kind])]
    for chance, hint in (
        (0.9, pick(rng, say["setting"][shown.setting])),
        (0.9, _coloured(rng, say, "subject_colour", shown.colour)),
        (0.7, pick(rng, say["amount"][shown.amount])),
        (0.6, _coloured(rng, say, "prop_colour", shown.prop_colour)),
        (0.5, pick(rng, say["place"][shown.place])),
        (0.3, pick(rng, say["literal"]).format(label=shown.kind)),
    ):
        if rng.random() < chance:
            hints.append(hint)
    # What colour, how many, where: said of something that was brought up before.
    first = hints[: 1 + (len(hints) > 1)]
    if len(first) == 2 and rng.random() < 0.5:
        first.reverse()
    turns = []
    for hint in first + hints[2:]:
        turns.append(Turn(0, hint))
        turns += _answer(rng, say, shown)
    return turns


def _answer(rng: random.Random, say: dict[str, Any], shown: Scene) -> list[Turn]:
    chance = rng.random()
    if chance < 0.06:
        return [Turn(1, pick(rng, say["right_guess"]).format(label=shown.kind))]
    if chance < 0.16:
        others = [name for name in KINDS + PROPS if name != shown.kind]
        return [Turn(1, pick(rng, say["wrong_guess"]).format(label=pick(rng, others)))]
    if chance < 0.65:
        return [Turn(1, pick(rng, say["reaction"]))]
    return []


def _question(rng: random.Random, say: dict[str, Any]) -> list[Turn]:
    turns = [Turn(1, pick(rng, say["ask"]))] if rng.random() < 0.7 else []
    if rng.random() < 0.7 or not turns:
        turns.append(Turn(0, pick(rng, say["offer"])))
    return turns


def _reaction(rng: random.Random, say: dict[str, Any], shown: Scene) -> list[Turn]:
    text = pick(rng, say["after"]).format(label=shown.kind, colour=shown.colour)
    turns = [Turn(1, text)]
    if rng.random() < 0.7:
        turns.append(Turn(0, pick(rng, say["farewell"])))
    return turns


def _coloured(rng: random.Random, say: dict[str, Any], how: str, colour: str) -> str:
    text = pick(rng, say[how]).format(colour=pick(rng, say["colour"][colour]))
    return text[0].upper() + text[1:]


@functools.cache
def _phrases() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("demo_phrases.json").read_text("utf-8"))
