"""JDDC 2.1 in the documented layout: what is read, what is refused, and what the checker says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tfds_builders
from mmjax.data.annotations import Edu, Product, Relation
from mmjax.data.schema import SPLITS, Dialogue, Photo, Turn
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError, Place
from tfds_builders.jddc21 import archive, check, inventory, session
from tfds_builders.jddc21.jddc21_dataset_builder import Builder, photo_origin
from tfds_builders.jddc21.tables import Tables

DUMMY = Path(tfds_builders.__file__).parent / "jddc21" / "dummy_data"
KETTLE = Product("p1", "电水壶", (("容量", "1.7升"), ("功率", "1800瓦")))


def parse(turns: Any, tables: Tables | None = None, **more: Any) -> Dialogue:
    record = {"id": "s", "turns": turns, **more}
    return session.parse(record, Place("train.jsonl, line 1"), tables or Tables(), {})


def customer(text: str) -> dict[str, Any]:
    return {"role": "customer", "text": text}


def agent(text: str) -> dict[str, Any]:
    return {"role": "agent", "text": text}


def read(folder: Path, split: str, config: str = "") -> dict[str, Dialogue]:
    origin = Builder.find(config, folder)
    found = [talk for _, talk in origin.read(origin.fetch(None), split)]
    assert not [talk for talk in found if isinstance(talk, BadRecordError)], found
    return {talk.id: talk for talk in found}


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(DUMMY, tmp_path / "jddc"))


def changed(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder


def test_everything_of_a_session_comes_back_from_disk(tmp_path):
    train = open_dataset("jddc21", "train", data_dir=tmp_path, manual_dir=DUMMY, photos=True)
    talks = {train[i].id: train[i] for i in range(len(train))}
    one = talks["s1"]
    assert one.roles == ("customer", "agent")
    assert one.turns[1] == Turn(0, "", (Photo("s1_0.png", ("photo>malfunction",)),))
    assert one.turns[1].photos[0].file.read() == (DUMMY / "images" / "s1_0.png").read_bytes()
    assert one.turns[3].rewrites == ("是的，插上电源以后也不亮",)
    assert one.turns[0].rewrites is None
    assert one.targets == (2, 4)
    assert one.products == (KETTLE,)
    assert one.edus[1:3] == (Edu(0, "这个电水壶底座一直不亮灯"), Edu(1, photo=0))
    assert one.relations[1] == Relation(1, 2, "Contingency>Contingency>Proof")
    assert one.summaries == ("顾客的电水壶底座不亮灯，客服为其申请换新。",)
    assert one == read(DUMMY, "train")["s1"]
    # Full width, an emoji of two code points, two photos beside the text, none of them labelled.
    asked = read(DUMMY, "test", "annotated")["s2"].turns[1]
    assert asked.text == "这件还有Ｌ码吗👍🏽"
    assert asked.rewrites == ()
    assert [photo.labels for photo in asked.photos] == [("screenshot>product",), ()]


def test_an_agent_who_speaks_first_answers_nothing():
    assert read(DUMMY, "test", "annotated")["s2"].targets == (2,)


def test_a_session_of_images_alone_is_kept_and_nothing_is_to_be_said_in_it():
    silent = read(DUMMY, "train")["s3"]
    assert [turn.text for turn in silent.turns] == ["", ""]
    assert silent.targets == ()


def test_an_image_can_be_answered():
    assert read(DUMMY, "test")["s5"].targets == (1,)


def test_annotated_sessions_are_in_the_splits_of_the_annotation():
    found = {split: set(read(DUMMY, split, "annotated")) for split in SPLITS}
    assert found == {"train": {"s1"}, "dev": {"s4"}, "test": {"s2"}}


def test_what_is_judged_by_is_not_learned(folder):
    """Annotated sessions of dev and test, wherever they stand; and sessions of an earlier split."""
    assert set(read(DUMMY, "train")) == {"s1", "s3"}  # without s2, annotated for test
    assert set(read(DUMMY, "test")) == {"s5"}
    train = (DUMMY / "sessions" / "train.jsonl").read_text("utf-8")
    changed(folder, "sessions/test.jsonl", train)
    origin = Builder.find("", folder)
    found = dict(origin.read(origin.fetch(None), "test"))
    assert all(isinstance(bad, BadRecordError) for bad in found.values())
    assert "was used before, in" in str(found["1"]) and len(found) == 3


def test_nothing_is_in_train_of_one_name_and_in_dev_or_test_of_the_other(folder):
    """Every split of the files with every split of the annotation, and without one."""
    named = {(a, b): f"{a}-{b}" for a in SPLITS for b in (*SPLITS, "none")}
    for split in SPLITS:
        rows = [
            {"id": name, "turns": [customer("在吗"), agent("在的")]}
            for (theirs, _), name in named.items()
            if theirs == split
        ]
        changed(folder, archive.SESSIONS[split], "".join(json.dumps(row) + "\n" for row in rows))
    told = "".join(f"{name}\t{b}\n" for (_, b), name in named.items() if b != "none")
    changed(folder, archive.ANNOTATED, told)
    for name in (archive.REWRITES, archive.DISCOURSE, archive.SUMMARIES):
        (folder / name).unlink()
    one, other = (
        {split: set(read(folder, split, config)) for split in SPLITS}
        for config in ("", "annotated")
    )
    assert one["train"] == {"train-train", "train-none"} and other["train"] == {"train-train"}
    for split in ("dev", "test"):
        assert one[split] == {name for (theirs, _), name in named.items() if theirs == split}
        assert other[split] == {name for (_, b), name in named.items() if b == split}
    for a, b in ((one, other), (other, one)):
        assert not a["train"] & (b["dev"] | b["test"])


def test_ten_thousand_characters_are_kept():
    assert parse([customer("长" * 10_000), agent("好")]).turns[0].text == "长" * 10_000


def test_without_a_knowledge_base_ids_are_kept_and_nothing_is_known_of_them():
    assert parse([customer("好")], products=["p9"]).products == (Product("p9"),)


@pytest.mark.parametrize(
    ("turns", "more", "message"),
    [
        ([], {}, r"field turns: there is none"),
        ([customer("")], {}, r"turns\[0\]: it has neither text nor images"),
        ([{"role": "staff", "text": "a"}], {}, r"role: it should be customer or agent"),
        ([{"role": "agent", "txt": "a"}], {}, r"unknown field 'txt'; did you mean 'text'"),
        ([customer("长" * 100_001)], {}, r"100,001 characters, the limit is 100,000"),
        ([customer("好")], {"products": ["p9"]}, r"products\[0\]: product 'p9' is not in the kno"),
        ([customer("好")], {"products": "p1"}, r"field products: it should be a list"),
    ],
)
def test_a_bad_session_is_named(turns, more, message):
    with pytest.raises(BadRecordError, match=message):
        parse(turns, Tables(products={"p1": KETTLE}), **more)


def discourse(edus: list[Any], *relations: tuple[int, int]) -> Tables:
    label = "Communication>Social>Social"
    rows = [{"head": head, "tail": tail, "relation": label} for head, tail in relations]
    return Tables(discourse={"s": ({"edus": edus, "relations": rows}, Place("d.jsonl, line 1"))})


EDUS = [{"turn": 0, "text": "好"}, {"turn": 1, "text": "在"}, {"turn": 1, "text": "的"}]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (Tables(rewrites={"s": {1: ("x", Place("r"))}}), r"turn 1 is no text of the customer's"),
        (Tables(rewrites={"s": {7: ("x", Place("r"))}}), r"turn 7 is no text of the customer's"),
        (discourse([{"turn": 9, "text": "好"}]), r"there is no turn 9"),
        (discourse([{"turn": 0, "text": "坏"}]), r"edus\[0\]\.text: it is no part of turn 0"),
        (discourse([{"turn": 0, "image": "a"}]), r"turn 0 does not show 'a'"),
        (discourse(EDUS, (0, 1)), r"every EDU but the first should be attached exactly once"),
        (discourse(EDUS, (0, 1), (0, 1)), r"every EDU but the first"),
        (discourse(EDUS, (0, 1), (1, 2), (0, 2)), r"every EDU but the first"),
        (discourse(EDUS, (2, 1), (1, 2)), r"EDU 1 is attached in a circle"),
        (discourse(EDUS, (0, 1), (0, 3)), r"0 and 3 are not both of the 3 EDUs"),
    ],
)
def test_an_annotation_that_does_not_fit_the_turns_is_named(tables, message):
    with pytest.raises(BadRecordError, match=message):
        parse([customer("你好"), agent("在的")], tables)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (archive.CATEGORIES, "a\tphoto>cat\n", r"tsv, line 1: 'photo>cat' is no category"),
        (archive.CATEGORIES, "a\n", r"there should be 2 columns"),
        (archive.PRODUCTS, "p1\tx\np1\ty\n", r"line 2: 'p1' has a line before"),
        (archive.TRIPLES, "p1\tx\n", r"there should be 3 columns"),
        (archive.ANNOTATED, "s1\tvalid\n", r"'valid' is no split"),
        (archive.REWRITES, '{"session": "s1", "turn": 0}', r"rewrite: it is missing"),
        (archive.REWRITES, '{"session": "s1", "turn": 0, "rewrite": ""}', r"null says"),
        (archive.SUMMARIES, '{"session": "s1"}', r"summary: it is missing"),
        (archive.DISCOURSE, "{", r"line 1 is not JSON"),
    ],
)
def test_a_bad_table_stops_the_preparation(folder, name, text, message):
    with pytest.raises(UserError, match=message):
        read(changed(folder, name, text), "train")


def test_missing_and_corrupt_images_are_told(folder):
    (folder / "images" / "s3_0.png").unlink()
    changed(folder, "images/s2_0.png", "no picture")
    found = dict(photo_origin(folder).read(None))
    assert "'images/s3_0.png' is not in" in str(found["s3_0.png"])
    assert isinstance(found["s1_0.png"], bytes)
    said = list(check.problems(folder, images=True))
    assert any("1 image (s3_0.png) is shown in a session and not in images" in s for s in said)
    assert any("images/s2_0.png:" in sentence for sentence in said)
    # Two lie there and are not counted twice.
    assert len(said) == 2


def test_no_name_of_an_image_leads_out_of_the_folder(folder):
    turns = [{"role": "customer", "images": ["../../secret.png"]}]
    changed(folder, "sessions/train.jsonl", json.dumps({"id": "s", "turns": turns}))
    found = dict(photo_origin(folder).read(None))
    assert "is no path below" in str(found["../../secret.png"])


def test_the_checker_finds_nothing_in_a_whole_folder(capsys):
    assert check.run([str(DUMMY), "--images"]) == 0
    assert "nothing is missing or wrong" in capsys.readouterr().out


def test_the_checker_says_what_is_missing_in_one_sentence_each(folder, capsys):
    (folder / archive.SUMMARIES).unlink()
    shutil.rmtree(folder / "images")
    changed(folder, archive.ANNOTATED, "s1\ttrain\ns9\tdev\n")
    with (folder / archive.SESSIONS["dev"]).open("a") as file:
        file.write('{"id": "s1", "products": [], "turns": [{"role": "customer", "text": "好"}]}\n')
        file.write('{"id": "s8", "products": ["p9"], "turns": [{"role": "agent", "text": "a"}]}\n')
    assert check.run([str(folder)]) == 2
    said = capsys.readouterr().out.splitlines()
    for sentence in (
        "annotations/summaries.jsonl is not there: without it there are no summaries.",
        "images is not there: without it there are no pixels.",
        "1 session (s9) is named in annotations/splits.tsv and in no file of usable sessions.",
    ):
        assert sentence in said
    assert any("product 'p9' is not in the knowledge base." in sentence for sentence in said)
    assert any("rewrites.jsonl, line 1, field turn: turn 3" in sentence for sentence in said)
    assert all(sentence.endswith(".") for sentence in said)


def test_a_session_in_two_splits_is_told(folder):
    shutil.copy(folder / archive.SESSIONS["test"], folder / archive.SESSIONS["dev"])
    assert "1 session (s5) is in dev and in test: leave one of them out." in check.problems(folder)


def test_the_checker_compares_with_the_paper(capsys):
    assert check.run([str(DUMMY), "--published"]) == 2
    said = capsys.readouterr().out
    assert "There are 2 products, and the paper has 30,205." in said
    name = "Question&Answer>Question>Yes/No"
    assert f"{name} is there 1 times in train, and 4,148 in the paper." in said


def test_a_folder_that_is_none_is_refused(tmp_path, capsys):
    assert check.run([str(tmp_path / "no")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"has no sessions .*jddc21\.check"):
        Builder.find("", tmp_path)
    with pytest.raises(UserError, match=r"application form.*manual_dir"):
        Builder.find("", None)


def test_the_inventory_has_the_papers_sizes():
    relations = inventory.relations()
    assert len(inventory.image_categories()) == 15
    assert len(relations) == 33
    levels = [len({inventory.at_level(name, level) for name in relations}) for level in (1, 2, 3)]
    assert levels == [5, 12, 33]
    # Every EDU but a session's first has one parent: 1,800, 100 and 100 sessions.
    assert [sum(row) for row in zip(*relations.values(), strict=True)] == [38_864, 2_169, 2_140]
    assert sum(map(sum, relations.values())) == inventory.published()["relations"]
