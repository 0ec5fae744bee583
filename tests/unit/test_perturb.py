"""Each perturbation takes away what it says, leaves the rest, and draws the same again."""

from __future__ import annotations

import collections
import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

from mmjax.data import splits
from mmjax.data.annotations import Product
from mmjax.data.exchange import exchange
from mmjax.data.names import NEUTRAL, find_names
from mmjax.data.perturb import INPUTS, PERTURBATIONS, differs, perturbed
from mmjax.data.perturb_photos import BLANK
from mmjax.data.photos import BytesPhoto
from mmjax.data.schema import Box, Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.errors import UserError
from mmjax.options import DataOptions


def photo(name: str, *labels: str, pixels: bytes | None = None) -> Photo:
    boxes = tuple(Box(label, 0.0, 0.1, 0.5, 0.5) for label in labels)
    return Photo(name, labels, boxes=boxes, file=None if pixels is None else BytesPhoto(pixels))


def talk(name: str, *turns: tuple) -> Dialogue:
    """Turns as (speaker, text) or (speaker, text, photo)."""
    return Dialogue(name, tuple(Turn(who, text, tuple(photos)) for who, text, *photos in turns))


DOG, CAT = photo("dog", "Dog", "Grass", pixels=b"1"), photo("cat", "Cat", pixels=b"2")
BOAT = photo("boat", "Boat", pixels=b"3")
A = talk(
    "a",
    *((0, "one"), (1, "two"), (0, "three"), (1, " "), (1, "four"), (0, "five")),
    *((0, "six", DOG), (1, "seven"), (0, "eight"), (1, "nine"), (1, "", CAT), (0, "ten")),
)
B = talk("b", (1, "hello"), (1, "friend"), (0, "hm"), (1, "", BOAT))
PHONE = Product("p1", "phone", (("colour", "black"),))
C = replace(talk("c", (0, "alone")), products=(PHONE,))
SOURCE = ListSource([A, B, C])


def changed(name: str, source=SOURCE) -> list[Dialogue]:
    return list(perturbed(source, name))


def texts(dialogue: Dialogue) -> list[str]:
    return [turn.text for turn in dialogue.turns]


def without_boxes(dialogue: Dialogue) -> Dialogue:
    turns = (
        replace(turn, photos=tuple(replace(p, boxes=()) for p in turn.photos))
        for turn in dialogue.turns
    )
    return replace(dialogue, turns=tuple(turns))


def photos(dialogues) -> list[Photo]:
    return [p for dialogue in dialogues for turn in dialogue.turns for p in turn.photos]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbed_source_has_the_same_turns_and_shares_and_another_fingerprint(name):
    source, kept = perturbed(SOURCE, name), {"speakers_swapped"}
    assert PERTURBATIONS[name].takes in INPUTS
    assert source.fingerprint != SOURCE.fingerprint and source.name == SOURCE.name
    assert len(source) == len(SOURCE)
    for before, after in zip(SOURCE, source, strict=True):
        assert after.id == before.id and len(after.turns) == len(before.turns)
        for old, new in zip(before.turns, after.turns, strict=True):
            assert [p.id for p in new.photos] == [p.id for p in old.photos]
            assert new.speaker == old.speaker or name in kept
            assert bool(new.text.strip()) <= bool(old.text.strip())
    again = pickle.loads(pickle.dumps(source))  # as it goes to a process that makes batches
    assert list(again) == list(source) == changed(name) and not differs(again, source)
    assert differs(source, SOURCE) == (name != "names_masked")


def test_blank_photos_are_all_one_grey_and_nothing_else_changes():
    found = changed("images_blanked")
    assert found == [without_boxes(dialogue) for dialogue in SOURCE]
    assert {p.file for p in photos(found)} == {BLANK}
    assert set(perturbed(SOURCE, "images_blanked").photos) == {"dog", "cat", "boat"}


def test_shuffled_photos_have_the_pixels_of_others_and_their_boxes():
    found, boxes = changed("images_shuffled"), {p.file: p.boxes for p in photos(SOURCE)}
    assert list(map(without_boxes, found)) == list(map(without_boxes, SOURCE))
    for before, after in zip(photos(SOURCE), photos(found), strict=True):
        assert after.file.read() != before.file.read()
        assert after.boxes == boxes[after.file]
    assert {p.file.read() for p in photos(found)} == {b"1", b"2", b"3"}


def test_photos_of_other_labels_are_exchanged_in_couples_and_who_is_left_over_gets_one():
    kinds = dict(zip("abcdefg", ["x", "y", "x", "z", "y", "x", "z"], strict=True))
    mine = {name: photo(name, kind, pixels=name.encode()) for name, kind in kinds.items()}
    source = ListSource([talk(name, (0, "hi"), (0, "", p)) for name, p in mine.items()])
    found = {p.id: p for p in photos(changed("images_of_other_labels", source))}
    given = {name: p.file.read().decode() for name, p in found.items()}
    assert all(kinds[name] != kinds[other] for name, other in given.items())
    assert sum(given[other] == name for name, other in given.items()) == 6
    assert {name: p.labels for name, p in found.items()} == {n: (k,) for n, k in kinds.items()}
    assert all(p.boxes == mine[given[name]].boxes for name, p in found.items())


def test_a_photo_without_pixels_has_none_after_a_perturbation():
    source = ListSource([talk("a", (0, "x"), (0, "", DOG)), talk("b", (0, "", photo("none")))])
    assert [p.file for p in photos(changed("images_blanked", source))] == [BLANK, None]


def test_dropped_labels_are_gone_from_photos_and_boxes():
    for p in photos(changed("labels_dropped")):
        assert p.labels == () and {box.label for box in p.boxes} == {""} and p.boxes[0].width == 0.5


def test_shuffled_labels_are_those_of_another_photo():
    found = photos(changed("labels_shuffled"))
    for before, after in zip(photos(SOURCE), found, strict=True):
        assert after.labels != before.labels
        assert tuple(box.label for box in after.boxes) == after.labels
    assert {p.labels for p in found} == {p.labels for p in photos(SOURCE)}


def test_of_dropped_knowledge_the_products_stay():
    assert changed("knowledge_dropped") == [A, B, replace(C, products=(Product("p1", "phone"),))]


def test_a_photo_that_is_shared_twice_gets_the_same_of_another_one_twice():
    source = ListSource(
        [talk(n, (0, "x"), (0, "", p)) for n, p in zip("abc", (DOG, CAT, DOG), strict=True)]
    )
    for name in ("labels_shuffled", "images_shuffled"):
        first, other, second = photos(changed(name, source))
        assert first == second and first.file == second.file
        assert (other.labels, other.file) != (first.labels, first.file)


def test_swapped_speakers_say_what_the_other_said_and_who_shares_stays():
    a, b, c = changed("speakers_swapped")
    assert [turn.speaker for turn in a.turns] == [1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1]
    assert [turn.speaker for turn in b.turns] == [0, 0, 1, 1]
    assert c == C
    assert [texts(d) for d in (a, b, c)] == [texts(d) for d in SOURCE]


def test_a_shuffled_order_keeps_who_speaks_and_what_is_before_the_share():
    a, b, c = changed("order_shuffled")
    assert sorted(texts(a)[:6]) == sorted(texts(A)[:6])
    for who, places in ((0, (0, 2, 5)), (1, (1, 4))):
        said = [texts(a)[k] for k in places]
        assert sorted(said) == sorted(texts(A)[k] for k in places), who
        assert all(new != texts(A)[k] for new, k in zip(said, places, strict=True))
    assert texts(a)[3] == " "  # a turn without words stays one
    assert sorted(texts(a)[6:9:2]) == ["eight", "six"] and texts(a)[11] == "ten"
    assert texts(b) == ["friend", "hello", "hm", ""] and c == C


def test_one_message_of_each_speaker_is_left_before_a_share():
    assert texts(changed("last_turns_only")[0]) == [
        *("", "", "", "", "four", "five", "", "", "eight", "nine", "", "ten"),
    ]
    assert texts(changed("first_turns_only")[0]) == [
        *("one", "two", "", "", "", "", "six", "seven", "", "", "", "ten"),
    ]


def test_shuffled_texts_are_those_of_other_dialogues():
    for before, after in zip(SOURCE, changed("texts_shuffled"), strict=True):
        others = {t for d in SOURCE for t in texts(d) if d.id != before.id}
        for old, new in zip(texts(before), texts(after), strict=True):
            assert new in others if old.strip() else new == old


def test_what_cannot_be_exchanged_is_said():
    alike = [talk(str(i), (0, "hi"), (0, "", photo(str(i), "Dog", pixels=b"1"))) for i in range(3)]
    for name, what in (("images_shuffled", "photos"), ("labels_shuffled", "labels")):
        with pytest.raises(UserError, match=f"no two {what} that differ"):
            perturbed(ListSource(alike), name)
    same = photo("same", *DOG.labels, pixels=b"9")
    with pytest.raises(UserError, match="no two photos with other labels"):
        perturbed(ListSource([talk("0", (0, "", DOG), (0, "", same))]), "images_of_other_labels")
    with pytest.raises(UserError, match="no two dialogues"):
        perturbed(ListSource(alike[:1]), "texts_shuffled")


@pytest.mark.parametrize("n", [2, 3, 50])
def test_an_exchange_is_one_to_one_on_contents_and_nobody_keeps_its_own(n):
    contents = [f"{k:x}" for k in np.random.default_rng(0).permutation(n)]
    other = exchange(contents, "things")
    assert sorted(other) == list(range(n)) and (other != np.arange(n)).all()
    np.testing.assert_array_equal(other, exchange(contents, "things"))
    twice = [contents[i] for i in exchange(contents * 2, "things")[:n] % n]
    assert twice == [contents[i] for i in exchange(contents * 2, "things")[n:] % n]


def test_the_pixels_that_a_config_asks_for_are_the_same_mechanism(monkeypatch):
    monkeypatch.setattr(splits, "open_dataset", lambda name, split, **_: SOURCE)
    for pixels, name in (("blank", "images_blanked"), ("shuffled", "images_shuffled")):
        options = DataOptions(pixels=pixels)
        found = splits.open_source(options, "dev", photos=True)
        assert not differs(found, perturbed(SOURCE, name))
        assert found.fingerprint == perturbed(SOURCE, name).fingerprint
        assert splits.open_source(options, "dev") is SOURCE  # who reads texts sees no pixels
    assert splits.open_source(DataOptions(), "dev", photos=True) is SOURCE
    one = ListSource([talk("a", (0, "x"), (0, "", DOG))])
    monkeypatch.setattr(splits, "open_dataset", lambda name, split, **_: one)
    with pytest.raises(UserError, match=r"config\.data\.pixels=shuffled: there are no two photos"):
        splits.open_source(DataOptions(pixels="shuffled"), "dev", photos=True)


# Names


def names_in(*said: str, labels=()) -> tuple:
    source = ListSource([talk(str(i), (0, text)) for i, text in enumerate(said)])
    source = ListSource([*source, talk("p", (0, "x"), (0, "", photo("p", *labels)))])
    return find_names(source), source


def test_a_name_is_masked_wherever_it_stands_and_however_it_is_written():
    names, source = names_in("this is Darwin", "DARWIN! darwin's dog", labels=["Darwin", "Dog"])
    (*_, shared) = perturbed(source, "names_masked")
    assert names.mask("Darwin's and DARWIN, darwin") == f"{NEUTRAL}'s and {NEUTRAL}, {NEUTRAL}"
    assert photos([shared])[0].labels == (NEUTRAL, "Dog")
    assert texts(perturbed(source, "names_masked")[0]) == [f"this is {NEUTRAL}"]


def test_a_name_that_no_list_has_is_known_by_the_relation_before_it():
    names, _ = names_in("I met my stepmother Xylophia", "so Xylophia came, my friend Quux.")
    assert names.mask("xylophia and Quux") == f"{NEUTRAL} and {NEUTRAL}"
    names, _ = names_in("no, mom I am", "my friend. Quux", "friends: Zork")
    assert names.mask("I Quux Zork") == "I Quux Zork"


def test_words_that_are_also_names_stay_unless_a_capital_says_otherwise():
    names, _ = names_in(
        "I will", "will you", "a rose will", "May I?", "it may be", "ask Will", "roses"
    )
    assert names.mask("Will you ask Will? it will") == f"Will you ask {NEUTRAL}? it will"
    assert names.mask("a Rose, may be. May I") == "a Rose, may be. May I"
    names, _ = names_in("a rose", "two roses, one rose", labels=["Rose", "Lily"])
    assert names.mask("Rose") == "Rose" and names.mask("Lily") == "Lily"  # objects, not people


def test_nine_of_ten_names_in_the_releases_own_words_are_masked(shared_data):
    """The oracle: the release's descriptions name a person, "The photo has your aunt Rosa."."""
    said = re.compile(r"The photo has your [\w ]+? (\S+)\. Objects in the photo: ")
    records = json.loads((shared_data("photochat") / "dev" / "dev_00.json").read_text())
    chats = []
    for n, r in enumerate(records):
        turns = [Turn(t["user_id"], t["message"]) for t in r["dialogue"]]
        chats.append(Dialogue(str(n), tuple(turns)))
    names, counts = find_names(ListSource(chats)), collections.Counter()
    for chat, record in zip(chats, records, strict=True):
        if found := said.match(record["photo_description"]):
            name = re.compile(rf"\b{re.escape(found[1])}\b")
            for text in filter(name.search, texts(chat)):
                counts["spoken"] += 1
                counts["masked"] += not name.search(names.mask(text))
    assert counts["spoken"] > 50 and counts["masked"] >= 0.9 * counts["spoken"], counts
    words = [w for chat in chats for t in texts(chat) for w in t.split()]
    masked = [w for chat in chats for t in texts(chat) for w in names.mask(t).split()]
    assert np.mean([a != b for a, b in zip(words, masked, strict=True)]) < 0.02
