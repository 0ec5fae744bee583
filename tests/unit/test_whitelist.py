"""PhotoChat's list of labels, and what other vocabularies' labels count as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmjax.curation import whitelist as module
from mmjax.curation.open_images import read_class_names, read_hierarchy
from mmjax.curation.whitelist import coco_entries, load_whitelist, open_images_entries
from mmjax.errors import UserError

PRINTED = json.loads(Path(module.__file__).with_name("photochat_labels.json").read_text())
WHITELIST = load_whitelist()


def test_the_list_is_as_printed_and_each_label_counts_once():
    assert {group: len(listed) for group, listed in PRINTED.items()} == {
        "people": 6, "food": 36, "animal": 1, "product": 46,
    }  # fmt: skip
    every = [label for listed in PRINTED.values() for label in listed]
    assert {label for label in every if every.count(label) > 1} == {"Blender"}
    assert len(WHITELIST.group_of) == 88 and set(WHITELIST.group_of) == set(every)
    assert WHITELIST.groups["product"].count("Blender") == 1


@pytest.fixture(scope="module")
def open_images(shared_data):
    """(names of classes, what is above each)."""
    folder = shared_data("openimages_classes")
    names = read_class_names(folder / "class-descriptions-boxable.csv")
    return names, read_hierarchy(folder / "bbox_labels_600_hierarchy.json", names)


def test_all_labels_but_two_are_classes_of_open_images(open_images):
    names, _ = open_images
    assert len(names) == 601
    assert set(WHITELIST.group_of) - set(names.values()) == {"Face", "Refridgerator"}
    assert {"Human face", "Refrigerator"} <= set(names.values())


def test_what_the_paper_excludes_is_not_listed():
    assert not {"Traffic light", "Nail", "Reptile"} & set(WHITELIST.group_of)


def test_the_hierarchy_knows_every_kind_and_no_part(open_images):
    names, above = open_images
    assert set(above) == set(names.values())
    assert {"Animal", "Mammal", "Carnivore"} == set(above["Dog"])
    assert {"Seafood", "Animal", "Food"} <= set(above["Shrimp"])  # two ways up
    assert above["Bicycle wheel"].isdisjoint({"Bicycle"})


def test_a_dog_is_an_animal_and_a_pastry_is_itself(open_images):
    entries = open_images_entries(WHITELIST, open_images[1])
    assert entries["Dog"] == ("Animal",) and entries["Animal"] == ("Animal",)
    assert entries["Pastry"] == () and entries["Bread"] == ("Bread",)
    assert entries["Teddy bear"] == ("Teddy bear",)  # not the bear that stands above it
    assert entries["Human face"] == ("Face",) and entries["Person"] == ()
    assert entries["Refrigerator"] == ()  # misspelt in the list
    alone = open_images_entries(WHITELIST, open_images[1], "none")
    assert alone["Dog"] == () and alone["Bread"] == ("Bread",)
    every = open_images_entries(WHITELIST, open_images[1], "all")
    assert every["Pastry"] == ("Baked goods",) and every["Shrimp"] == ("Animal", "Seafood")
    for entry in WHITELIST.group_of:
        if entry in every:
            assert every[entry] == alone[entry] == (entry,)


def test_in_the_release_the_classes_below_animal_come_with_it_and_others_do_not(
    open_images, shared_data
):
    """The ground for the default: which photos have the entry above their label too?"""
    _, above = open_images
    photos = {
        record["photo_id"]: set(record["photo_description"].partition(": ")[2].split(", "))
        for file in shared_data("photochat").glob("*/*.json")
        for record in json.loads(file.read_text())
    }
    share = {}
    for entry in ("Animal", "Baked goods", "Dessert", "Drink", "Sandwich", "Fashion accessory"):
        below = {name for name, higher in above.items() if entry in higher}
        # People are mammals in the release's labels, and a toy is no bear.
        below -= {"Mammal", "Teddy bear", *WHITELIST.group_of}
        below = below or {name for name, higher in above.items() if entry in higher}
        having = [labels for labels in photos.values() if labels & below]
        share[entry] = sum(entry in labels for labels in having) / len(having)
    assert share.pop("Animal") > 0.9
    assert max(share.values()) < 0.2


def test_every_class_of_coco_is_decided(shared_data):
    entries = coco_entries(WHITELIST)
    lines = (shared_data("coco_mini") / "images.jsonl").read_text().splitlines()
    labels = {item["label"] for line in lines for item in json.loads(line)["objects"]}
    assert len(labels) == 80 and labels <= set(entries)
    assert entries["person"] == ("Human body",) and entries["zebra"] == ("Animal",)
    assert entries["donut"] == ("Doughnut",) and entries["clock"] == ()
    assert entries["refrigerator"] == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "should be"),
        ('{"a": "Dog"}', "should be"),
        ('{"a": ["Dog"], "b": ["Dog"]}', "'Dog' is in 'a' and in 'b'"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_whitelist(tmp_path / "list.json")


def test_an_own_list_decides_for_itself(tmp_path):
    (tmp_path / "list.json").write_text('{"things": ["Refrigerator", "Car"]}')
    own = load_whitelist(tmp_path / "list.json")
    assert coco_entries(own)["refrigerator"] == ("Refrigerator",)
    assert open_images_entries(own, {"Dog": {"Animal"}, "Car": set()}) == {
        "Dog": (), "Car": ("Car",),
    }  # fmt: skip
