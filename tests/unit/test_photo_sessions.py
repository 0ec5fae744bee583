"""Sessions around sorted photos: only the photo tells what the answer names."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.data.perturb import OTHER_LABELS, perturbed
from mmjax.data.schema import SPLITS, Dialogue
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError
from mmjax.metrics.slots import Fillers
from tfds_builders.checks import BadRecordError
from tfds_builders.photo_sessions.photo_sessions_dataset_builder import Builder
from tfds_builders.photo_sessions.sessions import FORMAT, TELLINGS, sessions

KINDS = {f"{kind}/{k}.png": kind for kind in ("hat", "shoe", "rain_coat") for k in range(20)}


def folder_of(folder: Path, names=KINDS) -> Path:
    for number, name in enumerate(names):
        file = io.BytesIO()
        colour = (number % 256, number // 256, 7)
        Image.new("RGB", (8, 8), colour).save(file, "PNG")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(file.getvalue())
    return folder


def read(folder: Path, config: str = "") -> dict[str, list]:
    origin = Builder.find(config, folder)
    content = origin.fetch(None)
    return {split: [d for _, d in origin.read(content, split)] for split in origin.splits}


def shown(dialogue: Dialogue):
    (photo,) = (photo for turn in dialogue.turns for photo in turn.photos)
    return photo


def words(dialogue: Dialogue) -> tuple[str, ...]:
    """What is said, the kind of thing left out."""
    (kind,) = shown(dialogue).labels
    return tuple(re.sub(rf"\b{kind}\b", "KIND", turn.text) for turn in dialogue.turns)


def test_held_out_sessions_come_in_twins_that_only_the_photo_tells_apart(tmp_path):
    found = read(folder_of(tmp_path))
    for split in ("dev", "test"):
        twins = collections.defaultdict(list)
        for dialogue in found[split]:
            twins[words(dialogue)].append(dialogue)
        assert twins and all(len(some) == 2 for some in twins.values())
        for one, other in twins.values():
            assert shown(one).labels != shown(other).labels
            assert shown(one).id != shown(other).id
            before = [[turn.text for turn in d.turns[:-1]] for d in (one, other)]
            assert before[0] == before[1]


def test_the_last_turn_alone_names_what_is_shown_and_is_asked_for(tmp_path):
    fillers = Fillers(["hat", "shoe", "rain coat"])
    for dialogue in read(folder_of(tmp_path))["train"]:
        (kind,) = shown(dialogue).labels
        assert dialogue.roles == ("customer", "agent")
        assert dialogue.targets == (len(dialogue.turns) - 1,)
        *before, answer = dialogue.turns
        assert answer.speaker == 1 and kind in answer.text and not answer.photos
        assert not any(fillers.named(turn.text) for turn in before)
        assert before[-1].speaker == 0 and before[-1].text


def test_words_do_not_depend_on_the_kind():
    kinds = {f"p{k}": ("hat", "shoe")[k % 2] for k in range(50)}
    other = {name: {"hat": "shoe", "shoe": "hat"}[kind] for name, kind in kinds.items()}
    for split in SPLITS:
        assert [*map(words, sessions(split, kinds))] == [*map(words, sessions(split, other))]


def test_the_words_are_frozen_until_the_format_is_raised():
    kinds = {f"p{k}": ("hat", "shoe", "coat")[k % 3] for k in range(30)}
    said = [
        [split, d.id, [[turn.text, [p.id for p in turn.photos]] for turn in d.turns]]
        for split in ("train", "dev")
        for d in sessions(split, kinds)
    ]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    assert (FORMAT, digest[:16]) == (1, "b1fb9a7dcae82bc9")


def test_a_photo_is_in_one_split_and_in_train_it_is_told_of_several_times(tmp_path):
    folder = folder_of(tmp_path)
    for number in range(20):  # the same again, under other names
        copied = folder / "again" / "hat" / f"{number + 50}.png"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes((folder / f"hat/{number}.png").read_bytes())
    found = read(folder, "split-50-25-25")
    told = {
        split: collections.Counter(shown(d).id for d in dialogues)
        for split, dialogues in found.items()
    }
    assert set(told["train"].values()) == {TELLINGS}
    assert set(told["dev"].values()) == set(told["test"].values()) == {1}
    pixels = {split: {(folder / name).read_bytes() for name in told[split]} for split in SPLITS}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not pixels[one] & pixels[other]
    train = [d for d in found["train"] if shown(d).id == next(iter(told["train"]))]
    assert len({words(d) for d in train}) > 1


def test_photos_that_cannot_be_used_are_named_and_counted_once(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "loose.png").write_bytes((folder / "hat/0.png").read_bytes() + b"0")
    (folder / "shoe/also.png").write_bytes((folder / "hat/1.png").read_bytes())
    (folder / ("x" * 101)).mkdir()
    (folder / ("x" * 101) / "long.png").write_bytes((folder / "hat/0.png").read_bytes() + b"1")
    (folder / "hat/notes.txt").write_text("not a photo")
    found = read(folder)
    bad = [str(d) for split in SPLITS for d in found[split] if isinstance(d, BadRecordError)]
    assert len(bad) == 3
    for part in ("loose.png is in no folder", "holds the same as", "should be a word or a few"):
        assert any(part in message for message in bad), part


def test_folders_that_teach_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no two folders with photos \(found: hat\)"):
        read(folder_of(tmp_path, ["hat/1.png", "hat/2.png"]))
    with pytest.raises(UserError, match=r"config\.data\.manual_dir=DIR"):
        Builder.find("", None)


def test_the_dataset_is_another_one_when_a_photo_is(tmp_path):
    folder = folder_of(tmp_path)
    before = Builder.find("", folder)
    assert Builder.find("", folder).digest == before.digest
    (folder / "hat/0.png").write_bytes(b"other")
    assert Builder.find("", folder).digest != before.digest


def test_it_is_prepared_with_its_photos_and_twins_are_those_whose_photos_are_exchanged(tmp_path):
    folder = folder_of(tmp_path / "photos")
    source = open_dataset(
        "photo_sessions", "dev", data_dir=tmp_path / "data", manual_dir=folder, photos=True
    )
    told, exchanged = list(source), list(perturbed(source, OTHER_LABELS))
    assert told
    for dialogue, other in zip(told, exchanged, strict=True):
        photo = shown(dialogue)
        assert photo.file.read() == (folder / photo.id).read_bytes()
        (twin,) = (d for d in told if d.id != dialogue.id and words(d) == words(dialogue))
        assert shown(other).file.read() == (folder / shown(twin).id).read_bytes()


def test_real_photos_are_all_told_of_but_who_has_no_partner(shared_data):
    found = read(shared_data("clothing_small"))
    photos = {split: {shown(d).id for d in found[split]} for split in SPLITS}
    assert [len(photos[split]) for split in SPLITS] == [511, 78, 122]  # of 713
    kinds = {shown(d).labels for d in found["test"]}
    assert len(kinds) == 10
    assert np.mean([shown(d).labels == ("t-shirt",) for d in found["test"]]) < 0.3
