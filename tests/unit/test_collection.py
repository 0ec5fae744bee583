"""What the sharer is told of a photo has the release's form, and leaks no name to a model."""

from __future__ import annotations

import json
import re

import numpy as np

from mmjax.curation import collection
from mmjax.curation.collection import describe, may_share
from tfds_builders.checks import Place
from tfds_builders.photochat import release


def parsed_labels(description):
    record = {
        "dialogue": [{"message": "", "share_photo": True, "user_id": 0}],
        "dialogue_id": 0,
        "photo_description": description,
        "photo_url": "",
        "photo_id": "p",
    }
    return release.parse(record, "train", Place("here"), {}).turns[0].photos[0].labels


def test_the_reader_of_the_release_finds_the_labels_and_not_the_person():
    rng = np.random.default_rng(0)
    for labels in (["Man", "Dog"], ["Vase"], ["Face", "Human body"], ["Girl", "Woman", "Hat"]):
        text = describe(labels, rng)
        assert parsed_labels(text) == tuple(labels)
        assert ("The photo has your" in text) == bool({"Man", "Woman", "Girl"} & set(labels))


def test_relation_and_name_suit_one_of_the_people_and_all_are_drawn():
    people = collection._people()
    rng, seen = np.random.default_rng(0), set()
    for _ in range(400):
        found = re.match(r"The photo has your (.+) (\w+)\. Obj", describe(["Boy", "Woman"], rng))
        relation, name = found.groups()
        (who,) = [p for p in ("Boy", "Woman") if name in people["names"][p]]
        assert relation in people["relations"][who]
        seen |= {(who, relation), (who, name)}
    assert len(seen) == sum(len(people[w][p]) for w in people for p in ("Boy", "Woman"))


def test_the_same_seed_gives_the_same_description():
    texts = [describe(["Man"], np.random.default_rng(7)) for _ in range(2)]
    assert texts[0] == texts[1]


def test_relations_are_those_of_the_release(shared_data):
    """Every relation of the release can be drawn, for the same people, and no other."""
    found = set()
    for file in shared_data("photochat").glob("*/*.json"):
        for record in json.loads(file.read_text()):
            named = re.match(r"The photo has your (.+) (\S+?)\. Obj", record["photo_description"])
            found |= {named.group(1)} if named else set()
    ours = {r for listed in collection._people()["relations"].values() for r in listed}
    assert ours == found


def test_the_share_button_is_on_from_five_turns_on_and_once():
    assert [may_share(turns) for turns in (0, 4, 5, 30)] == [False, False, True, True]
    assert not may_share(9, shared=True)
