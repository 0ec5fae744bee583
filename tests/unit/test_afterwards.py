"""Shares that are moved behind what is said of them: learned from, and never asked with."""

from __future__ import annotations

import pytest

from mmjax.data.afterwards import AfterwardsSource, moved
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask, RetrievalText

DOG, CAT = Photo("dog", ("Dog", "Grass")), Photo("cat", ("Cat",))


def talk(*turns: tuple, name: str = "d") -> Dialogue:
    """Turns as (speaker, text, photos...)."""
    return Dialogue(name, tuple(Turn(who, text, tuple(photos)) for who, text, *photos in turns))


CHAT = talk(
    (0, "we went out"),
    (1, "where?"),
    (0, "look", DOG),
    (1, "what a nice dog!"),
    (0, "he is"),
    (1, "", CAT),
    (0, "so many paws"),
    name="chat",
)
# Nothing is said once the photo is there.
QUIET = talk((0, "here he is"), (0, "", DOG), (1, "  "), name="quiet")


def test_a_share_is_asked_for_by_what_was_said_from_it_until_the_next_one():
    found = moved(CHAT, one_voice=False)
    assert found.id == "chat:after"
    assert found.turns == (
        Turn(0, "look"),
        Turn(1, "what a nice dog!"),
        Turn(0, "he is"),
        Turn(0, "", (DOG,)),
        Turn(0, "so many paws"),
        Turn(1, "", (CAT,)),
    )


def test_in_one_voice_the_sharer_says_it_all():
    found = moved(CHAT, one_voice=True)
    assert [turn.speaker for turn in found.turns] == [0, 0, 0, 0, 1, 1]
    text = RetrievalText(RetrievalOptions(query="sharer"))
    assert text.query(found, 0) == "look what a nice dog! he is"
    assert text.query(found, 1) == "so many paws"


def test_the_source_has_what_it_had_and_behind_it_what_was_said_after():
    origin = ListSource([CHAT, QUIET])
    source = AfterwardsSource(origin, one_voice=True)
    assert [source[i] for i in range(len(source))] == [CHAT, QUIET, moved(CHAT, one_voice=True)]
    others = {origin.fingerprint, AfterwardsSource(origin, one_voice=False).fingerprint}
    assert source.name == origin.name and source.fingerprint not in others


@pytest.mark.parametrize("query", ["sharer", "both"])
def test_the_task_learns_from_it_where_it_is_asked_to(query):
    origin = ListSource([talk((0, "a"), (0, "", DOG), (0, "b"), (1, "c"))])
    as_it_is = RetrievalTask(RetrievalOptions(query=query), ModelOptions())
    assert as_it_is.learn_from(origin) is origin
    after = RetrievalTask(RetrievalOptions(query=query, after=True), ModelOptions())
    learned = after.learn_from(origin)
    # Who judges or answers a split reads it so, and hears nothing of what comes later.
    assert after.read_with(origin, "train") is origin
    first, second = (text for i in range(2) for text in after.texts(learned[i]))
    assert (first.query, second.query) == ("a", "b c")
    # One photo: neither is a negative of the other.
    assert [first.keys[name] for name in after.key_names] == [
        second.keys[name] for name in after.key_names
    ]
