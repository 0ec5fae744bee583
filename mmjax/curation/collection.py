"""What the two people who write a dialogue are shown, and when the photo may be shared.

PhotoChat (Zang et al., ACL 2021, section 3.2): one of two people sees a photo and its description,
the other sees neither; they chat until the photo fits, and it is shared.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from mmjax.curation.whitelist import read_json

PARTICIPANTS = 2
SHARER, RECEIVER = 0, 1  # the release's speakers
# The share button is off before so many turns, of both together. A rule of the page and not of the
# data: the release has dialogues with fewer.
MIN_TURNS_BEFORE_SHARE = 5
# Nobody has to wait for the other's answer, and after the share the chat goes on as both like.
ALTERNATING = False
SHARER_RULES = (
    "Lead the chat to the photo, as if you were old friends.",
    "Share the photo when it fits what was said.",
)
RECEIVER_RULES = (
    "Chat as if you were old friends.",
    "Do not ask for personal data.",
    "Do not ask for a photo.",
)
# Why a dialogue is sent back by those who read it.
REASONS_TO_REJECT = (
    "Before the share, nothing in the dialogue has to do with the photo.",
    "It is not natural.",
    "It has inappropriate words.",
    "It has many typing mistakes, or broken English.",
)


def may_share(turns: int, *, shared: bool = False) -> bool:
    """Whether the sharer's button is on after so many turns; a photo is shared once."""
    return turns >= MIN_TURNS_BEFORE_SHARE and not shared


def describe(labels: Sequence[str], rng: np.random.Generator) -> str:
    """The description that the sharer sees, in the release's form.

    "The photo has your <relation> <Name>. Objects in the photo: l1, l2, ...". The first sentence
    is there where a label says woman, man, girl or boy, for one of them; of a face or a body alone
    nobody knows whose it is, and the release names nobody then. The sentence gives the photo away:
    no model may read it.

    Args:
      rng: draws the person, the relation and the name, in this order.
    """
    people = [label for label in labels if label in _people()["relations"]]
    listed = f"Objects in the photo: {', '.join(labels)}"
    if not people:
        return listed
    person = _draw(people, rng)
    relation, name = (_draw(_people()[what][person], rng) for what in ("relations", "names"))
    return f"The photo has your {relation} {name}. {listed}"


@functools.cache
def _people() -> Mapping[str, Mapping[str, Sequence[str]]]:
    return read_json(epath.Path(Path(__file__).with_name("people.json")))


def _draw(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
