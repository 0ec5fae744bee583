"""Own dialogues: what may be left out, what is refused and where, and what a change does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from etils import epath

import tfds_builders
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.dialogue_folder import jsonl

DUMMY = Path(tfds_builders.__file__).parent / "dialogue_folder" / "dummy_data"


def write(folder: Path, split: str, *records: Any) -> Path:
    """One line per record; a text is written as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path = folder / f"{split}.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def said(*texts: str) -> dict[str, Any]:
    return {"turns": [{"speaker": k % 2, "text": text} for k, text in enumerate(texts)]}


def read(path: Path) -> list[Dialogue | BadRecordError]:
    digest = jsonl.digest(epath.Path(path))
    return [dialogue for _, dialogue in jsonl.read({"x": (epath.Path(path), digest)}, "x")]


def test_the_sample_folder_is_read_as_it_says(tmp_path):
    train = open_dataset("dialogue_folder", "train", data_dir=tmp_path, manual_dir=DUMMY)
    assert {train[i] for i in range(len(train))} == {
        Dialogue(
            "walk",
            (
                Turn(0, "Guess who came along?"),
                Turn(1, "Your brother?"),
                Turn(0, "", (Photo("p1", ("Dog", "Tree"), "https://example.org/p1.jpg"),)),
            ),
        ),
        Dialogue(
            "2",
            (Turn(0, "Lunch?"), Turn(1, "Already done:", (Photo("p2"), Photo("p3", ("Soup",))))),
        ),
    }
    test = open_dataset("dialogue_folder", "test", data_dir=tmp_path, manual_dir=DUMMY)
    assert test[0] == Dialogue("1", (Turn(0, "No photo today."),))
    with pytest.raises(UserError, match=r"no split 'dev' .*only train, test"):
        open_dataset("dialogue_folder", "dev", data_dir=tmp_path, manual_dir=DUMMY)


def test_unusual_dialogues_come_back_unchanged(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    records = [
        {"id": "none", "turns": []},
        {"id": "empty", "turns": [{"speaker": 0, "text": ""}]},
        {"id": "long", **said(*(f"turn {k}" for k in range(5000)))},
        {"id": "emoji \U0001f44d\u200d", **said("\U0001f600 \u4f60\u597d \0 \u2028 end")},
        {"id": "bare photo", "turns": [{"speaker": 0, "photos": [{"id": "p"}]}]},
        {
            "id": "many",
            "turns": [
                {"speaker": 4, "photos": [{"id": "a", "labels": ["", "x"]}, {"id": "b"}]},
                {"speaker": 0, "photos": [{"id": "a", "labels": ["x"]}]},
            ],
        },
    ]
    write(folder, "train", *records)
    source = open_dataset("dialogue_folder", "train", data_dir=tmp_path, manual_dir=folder)
    found = {source[i].id: source[i] for i in range(len(source))}
    expected = {dialogue.id: dialogue for dialogue in read(folder / "train.jsonl")}
    assert found == expected
    assert len(found["long"].turns) == 5000
    assert found["emoji \U0001f44d\u200d"].turns[0].text == "\U0001f600 \u4f60\u597d \0 \u2028 end"
    assert found["many"].turns[0].photos == (Photo("a", ("", "x")), Photo("b"))


def test_names_are_numbered_in_the_order_of_their_first_turn(tmp_path):
    turns = [{"speaker": name} for name in ("Bo", "Ann", "Bo", "Cy", "Ann")]
    (dialogue,) = read(write(tmp_path, "train", {"turns": turns}))
    assert [turn.speaker for turn in dialogue.turns] == [0, 1, 0, 2, 1]


def test_blank_lines_are_skipped_and_counted_in_line_numbers(tmp_path):
    dialogues = read(write(tmp_path, "train", "", said("a"), "   ", said("b")))
    assert [dialogue.id for dialogue in dialogues] == ["2", "4"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", r"line 1 is not JSON"),
        ("[1]", r"line 1: it should be \{\.\.\.\} and is \[1\]"),
        ({}, r"line 1, field turns: it is missing"),
        ({"turns": {}}, r"field turns: it should be a list and is \{\}"),
        ({"turn": []}, r"unknown field 'turn'; did you mean 'turns'\?"),
        ({"turns": [], "zzz": 1}, r"unknown field 'zzz'; known are id, turns"),
        ({"id": 7, "turns": []}, r"field id: it should be text and is 7"),
        ({"turns": ["hi"]}, r'field turns\[0\]: it should be \{\.\.\.\} and is "hi"'),
        ({"turns": [{"text": "hi"}]}, r"field turns\[0\]\.speaker: it is missing"),
        ({"turns": [{"speaker": True}]}, r"speaker: it should be a whole number and is true"),
        ({"turns": [{"speaker": None}]}, r"speaker: it should be a whole number and is null"),
        ({"turns": [{"speaker": -1}]}, r"speaker: it should be from 0"),
        ({"turns": [{"speaker": 10**30}]}, r"speaker: it should be from 0"),
        ({"turns": [{"speaker": 0}, {"speaker": "A"}]}, r"turns\[1\]\.speaker: numbers and names"),
        ({"turns": [{"speaker": 0, "text": 5}]}, r"text: it should be text and is 5"),
        ({"turns": [{"speaker": 0, "txt": "a"}]}, r"unknown field 'txt'; did you mean 'text'\?"),
        ({"turns": [{"speaker": 0, "text": "a" * 100_001}]}, r"100,001 characters"),
        ('{"turns": [{"speaker": 0, "text": "\\ud83d"}]}', r"half of a surrogate pair"),
        ({"turns": [{"speaker": 0, "photos": [{}]}]}, r"photos\[0\]\.id: it is missing"),
        ({"turns": [{"speaker": 0, "photos": [{"id": ""}]}]}, r"photos\[0\]\.id: it is empty"),
        (
            {"turns": [{"speaker": 0, "photos": [{"id": "p", "labels": "Dog"}]}]},
            r'photos\[0\]\.labels: it should be a list and is "Dog"',
        ),
        (
            {"turns": [{"speaker": 0, "photos": [{"id": "p", "labels": [1]}]}]},
            r"labels\[0\]: it should be text and is 1",
        ),
        ({"turns": [{"speaker": 0}] * 50_001}, r"field turns: 50,001 entries"),
        ('{"turns": ' + "[" * 100_000, r"nested too deeply"),
        ('{"turns": [{"speaker": 1' + "0" * 5_000 + "}]}", r"not JSON that can be read"),
    ],
)
def test_a_bad_record_is_named_by_line_and_field(tmp_path, record, message):
    (bad,) = read(write(tmp_path, "train", record))
    assert isinstance(bad, BadRecordError)
    with pytest.raises(BadRecordError, match=message):
        raise bad
    assert str(bad).startswith(f"{tmp_path / 'train.jsonl'}, line 1")


def test_an_id_that_is_used_twice_is_refused(tmp_path):
    path = write(tmp_path, "train", {"id": "a", "turns": []}, {"id": "a", "turns": []})
    assert "'a' was used before" in str(read(path)[1])


def test_text_that_is_not_utf_8_is_named_by_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"turns": []}\n{"turns": [\xff]}\n')
    assert "line 2 is not UTF-8 text at byte 11" in str(read(path)[1])


def test_bad_records_stop_the_preparation_unless_they_are_accepted(tmp_path, caplog):
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder, "train", said("a"), "{", said("b"), {"turns": 1})
    data = tmp_path / "data"

    def opened(limit: int):
        return open_dataset(
            "dialogue_folder", "train", data_dir=data, manual_dir=folder, max_bad_records=limit
        )

    with pytest.raises(UserError, match=r"train\.jsonl, line 2.*max_bad_records"):
        opened(0)
    with pytest.raises(UserError, match=r"line 4, field turns.*2 such records"):
        opened(1)
    assert not list(data.glob("dialogue_folder/*/1.1.0"))
    assert not list(data.glob("dialogue_folder/*/incomplete*"))
    assert {opened(2)[i].turns[0].text for i in range(2)} == {"a", "b"}
    assert "line 2" in caplog.text
    assert "line 4" in caplog.text
    with pytest.raises(UserError, match="without 2 records"):
        opened(1)


def test_a_changed_file_is_prepared_anew_under_another_name(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder, "train", said("old"))
    old = open_dataset("dialogue_folder", "train", data_dir=tmp_path, manual_dir=folder)
    write(folder, "train", said("new"))
    new = open_dataset("dialogue_folder", "train", data_dir=tmp_path, manual_dir=folder)
    assert (old[0].turns[0].text, new[0].turns[0].text) == ("old", "new")
    assert old.name != new.name
    assert old.fingerprint != new.fingerprint


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path):
    path = write(tmp_path, "train", said("a"))
    with pytest.raises(UserError, match="changed while it was read"):
        list(jsonl.read({"train": (epath.Path(path), "0" * 64)}, "train"))


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE", 100)
    with pytest.raises(UserError, match=r"line 1 has more than 100 bytes"):
        read(write(tmp_path, "train", said("a" * 200)))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"--config\.data\.manual_dir=DIR"):
        open_dataset("dialogue_folder", "train", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"is not a folder"):
        open_dataset("dialogue_folder", "train", data_dir=tmp_path, manual_dir=tmp_path / "no")
    (tmp_path / "valid.jsonl").write_text("")
    with pytest.raises(UserError, match=r"none of train\.jsonl.*it holds valid\.jsonl"):
        open_dataset("dialogue_folder", "train", data_dir=tmp_path, manual_dir=tmp_path)


def test_a_split_without_dialogues_is_refused(tmp_path):
    write(tmp_path, "train", "")
    with pytest.raises(UserError, match=r"nothing usable for 'train'"):
        open_dataset("dialogue_folder", "train", data_dir=tmp_path / "d", manual_dir=tmp_path)
