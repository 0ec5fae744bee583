"""The scenes of "photochat/demo": what a photo shows, as numbers and names.

`scene(split, index)` is a pure function; `demo_photos` draws what it returns. A scene has one to
three things of one kind and colour, one prop beside them, and a setting. The labels name the kind
and the prop only: colours, places, sizes, numbers and the setting are in the scene alone, so that
labels narrow a photo down to its kind and only pixels can tell the rest.

Of the 72 pairs of kind and colour 18 occur in test only and 9 in dev only: whatever is measured
there is measured on combinations that training never showed.

This is the second version of the scenes (the seeds say "mmjax demo scenes 2"): it has many training
scenes told once each, where the first had few that were told three times, since a model that looks
at pixels learns from different photos. Results of the two are not comparable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

SCENES = {"train": 1800, "dev": 240, "test": 240}

KINDS = ("dog", "bird", "car", "boat", "bicycle", "house", "kite", "flower", "cake")
PROPS = ("tree", "bench", "umbrella", "lamp", "bucket", "fence")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SETTINGS = ("beach", "meadow", "snow", "street", "night", "desert", "lake", "park")
PLACES = ("left", "middle", "right")
AMOUNTS = ("small", "large", "two", "three")

_FEET = 0.86  # where things stand
# How far several things are from the middle of their group.
_GROUPS = {
    "two": ((-0.1, -0.01), (0.1, 0.02)),
    "three": ((0.0, -0.12), (-0.1, 0.05), (0.1, 0.06)),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing to draw. `x`, `y`: the centre and `size`: the side of the square that it is drawn
    in, as fractions of the photo's width and height, from the top left corner."""

    kind: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The subject (`kind`, `colour`, `place`, `amount`), the prop, the setting, and the things.

    `amount` is "small" or "large" for a single subject, else "two" or "three" small ones.
    """

    id: str
    setting: str
    kind: str
    colour: str
    place: str
    amount: str
    prop: str
    prop_colour: str
    prop_place: str
    things: tuple[Thing, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What an annotator would list: subject and prop, in alphabetical order."""
        return tuple(sorted((self.kind.capitalize(), self.prop.capitalize())))


def scene(split: str, index: int) -> Scene:
    """Scene number `index` (0 <= index < SCENES[split]) of "train", "dev" or "test"."""
    if not 0 <= index < SCENES[split]:
        raise IndexError(f"{split!r} has scenes 0 to {SCENES[split] - 1}, not {index}")
    rng = random.Random(f"mmjax demo scenes 2 {split} {index}")
    kind = KINDS[index % len(KINDS)]
    place, prop_place = pick(rng, [(a, b) for a in PLACES for b in PLACES if a != b])
    amount = pick(rng, AMOUNTS)
    colour = pick(rng, colours(kind, split))
    prop = Thing(
        kind=pick(rng, PROPS),
        colour=pick(rng, [other for other in COLOURS if other != colour]),
        x=_centre(prop_place) + _jitter(rng, 0.03),
        y=_FEET - 0.2 + _jitter(rng, 0.03),
        size=0.36,
    )
    return Scene(
        id=f"demo/{split}-{index:04d}",
        setting=pick(rng, SETTINGS),
        kind=kind,
        colour=colour,
        place=place,
        amount=amount,
        prop=prop.kind,
        prop_colour=prop.colour,
        prop_place=prop_place,
        things=(*_subjects(rng, kind, colour, place, amount), prop),
    )


def colours(kind: str, split: str) -> list[str]:
    """The colours in which a kind occurs in a split: no pair is in two splits."""
    first = KINDS.index(kind)
    turn = [COLOURS[(first + k) % len(COLOURS)] for k in range(len(COLOURS))]
    return {"test": turn[:2], "dev": turn[2:3], "train": turn[3:]}[split]


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of the items. Of Python's generator only `random()` is promised to stay the same."""
    return items[int(rng.random() * len(items))]


def _subjects(
    rng: random.Random, kind: str, colour: str, place: str, amount: str
) -> tuple[Thing, ...]:
    size = {"small": 0.2, "large": 0.42}.get(amount, 0.19)
    x, feet = _centre(place) + _jitter(rng, 0.02), _FEET + _jitter(rng, 0.03)
    return tuple(
        Thing(
            kind=kind,
            colour=colour,
            x=x + right + _jitter(rng, 0.01),
            y=(0.25 if kind == "kite" else feet - size / 2) + down + _jitter(rng, 0.01),
            size=size,
        )
        for right, down in _GROUPS.get(amount, ((0.0, 0.0),))
    )


def _centre(place: str) -> float:
    return {"left": 0.21, "middle": 0.5, "right": 0.79}[place]


def _jitter(rng: random.Random, most: float) -> float:
    return most * (2 * rng.random() - 1)
