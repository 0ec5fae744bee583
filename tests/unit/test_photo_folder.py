"""Own photos: what a line says, which file it means, which split it falls into."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from mmjax.data.schema import SPLITS, Box, Dialogue, Photo, Turn
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError, Place
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.file_digests import file_digests
from tfds_builders.photo_folder import files as files_module
from tfds_builders.photo_folder import tables
from tfds_builders.photo_folder.files import PhotoFiles
from tfds_builders.photo_folder.photo_folder_dataset_builder import Builder, photo_origin
from tfds_builders.photo_folder.splits import Fold, Shares, parse_config

HERE = Place("here")


def picture(number: int = 0, kind: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def folder_of(folder: Path, *names: str, **lines: list[Any]) -> Path:
    """Photos below the folder, and tables; a text is a line as it is."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    for table, records in lines.items():
        texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / f"{table}.jsonl").write_text("\n".join(texts) + "\n", "utf-8")
    return folder


def read(folder: Path, config: str = "") -> dict[str, list[Dialogue | BadRecordError]]:
    """What the builder would write, without writing it."""
    origin = Builder.find(config, folder)
    content = origin.fetch(None)
    return {
        split: [dialogue for _, dialogue in origin.read(content, split)] for split in origin.splits
    }


def read_all(folder: Path) -> list[Dialogue | BadRecordError]:
    """The lines of `train.jsonl`."""
    return read(folder)["train"]


def photos_of(dialogues: list[Dialogue]) -> set[str]:
    return {p.id for dialogue in dialogues for turn in dialogue.turns for p in turn.photos}


def read_photos(folder: Path) -> list[tuple[str, bytes | BadRecordError]]:
    return list(photo_origin(folder).read(epath.Path(folder)))


# ---- what a line says


def test_a_caption_is_said_and_then_the_photo_is_shared(tmp_path):
    record = {
        "file_name": "a.jpg",
        "captions": ["A dog.", "It runs."],
        "labels": ["Pet"],
        "url": "https://example.org/a.jpg",
        "width": 200,
        "height": 100,
        "objects": [
            {"label": "Dog", "bbox_xywh": [50, 25.0, 100, 50]},
            {"label": "Pet", "bbox_xywh": [0, 0, 200, 100]},
            {"label": "Dog", "bbox_xywh": [-0.4, 99, 1, 1.3]},
        ],
    }
    folder = folder_of(tmp_path, "images/a.jpg", train=[record])
    first, second = read_all(folder)
    (photo,) = first.turns[1].photos
    assert first == Dialogue("images/a.jpg#0", (Turn(0, "A dog."), Turn(0, "", (photo,))))
    assert second == Dialogue("images/a.jpg#1", (Turn(0, "It runs."), Turn(0, "", (photo,))))
    assert (photo.id, photo.url) == ("images/a.jpg", "https://example.org/a.jpg")
    assert photo.labels == ("Pet", "Dog")
    assert photo.boxes[:2] == (Box("Dog", 0.25, 0.25, 0.5, 0.5), Box("Pet", 0.0, 0.0, 1.0, 1.0))
    corner = photo.boxes[2]
    assert (corner.x, corner.y) == (0.0, 0.99)
    assert corner.x + corner.width == pytest.approx(0.003)
    assert corner.y + corner.height == pytest.approx(1.0)


def test_a_photo_of_which_nothing_is_said_is_only_shared(tmp_path):
    folder = folder_of(tmp_path, "a.jpg", train=[{"file_name": "a.jpg", "captions": []}])
    assert read_all(folder) == [Dialogue("a.jpg#0", (Turn(0, "", (Photo("a.jpg"),)),))]


@pytest.mark.parametrize(
    ("record", "text", "labels"),
    [
        ({"file": "a.jpg", "caption": "hi"}, "hi", ()),
        ({"image": "./a.jpg", "text": "hi"}, "hi", ()),
        ({"img_id": "a", "caption": "\u7ee7\u7eed", "category": "B"}, "\u7ee7\u7eed", ("B",)),
        ({"meme": "a", "boxes": ["TOP", "BOTTOM"]}, "TOP\nBOTTOM", ()),
    ],
)
def test_the_field_names_of_common_datasets_are_known(tmp_path, record, text, labels):
    (dialogue,) = read_all(folder_of(tmp_path, "a.jpg", train=[record]))
    assert dialogue.turns == (Turn(0, text), Turn(0, "", (Photo("a.jpg", labels),)))


def test_a_dialogue_shares_photos_that_have_files(tmp_path):
    turns = [
        {"speaker": "Ann", "text": "Look!"},
        {
            "speaker": "Bo",
            "photos": [
                {"file_name": "a.jpg", "labels": ["Dog"]},
                {"file_name": "images/b.jpg", "id": "cat"},
                {"id": "elsewhere"},
            ],
        },
    ]
    folder = folder_of(tmp_path, "a.jpg", "images/b.jpg", train=[{"id": "d", "turns": turns}])
    photos = (Photo("a.jpg", ("Dog",)), Photo("cat"), Photo("elsewhere"))
    assert read_all(folder) == [Dialogue("d", (Turn(0, "Look!"), Turn(1, "", photos)))]
    assert read_photos(folder) == [("a.jpg", picture(0)), ("cat", picture(1))]


def test_who_looks_at_boxes_is_told_that_there_are_none_before_photos_are_read(tmp_path):
    lines = [{"file_name": "a.jpg", "captions": ["A dog."]}]
    folder = folder_of(tmp_path / "mine", "a.jpg", train=lines)
    (folder / "a.jpg").write_bytes(b"this is no photo")
    places = {"data_dir": tmp_path / "data", "manual_dir": folder}
    with pytest.raises(UserError, match=r"no photo of photo_folder.*:train has boxes of its obj"):
        open_dataset("photo_folder", "train", photos=True, boxes=True, **places)


def test_the_same_dialogues_can_be_read_without_their_files(tmp_path):
    photo = {"file_name": "a.jpg", "labels": ["Dog"]}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"turns": [{"speaker": 0, "photos": [photo]}]}) + "\n")
    table = {"train": (epath.Path(path), jsonl.digest(epath.Path(path)))}
    ((_, dialogue),) = jsonl.read(table, "train")
    assert dialogue.turns[0].photos == (Photo("a.jpg", ("Dog",)),)


def test_captions_of_several_lines_add_up(tmp_path):
    lines = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "two"}]
    lines += [{"image": "./a.jpg", "captions": ["three", "one"]}]
    found = read_all(folder_of(tmp_path, "a.jpg", "b.jpg", train=lines))
    assert read_photos(tmp_path) == [("a.jpg", picture(0)), ("b.jpg", picture(1))]
    said = {dialogue.id: dialogue.turns[0].text for dialogue in found}
    assert said == {"a.jpg#0": "one", "b.jpg#0": "two", "a.jpg#1": "three", "a.jpg#2": "one"}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {}, "was described before"),
        ({"caption": "a"}, {}, "was described before"),
        ({}, {"caption": "a"}, "was described before"),
        ({"caption": "a"}, {"caption": "b", "labels": ["Dog"]}, "has other labels"),
        ({"caption": "a", "url": "u"}, {"caption": "b"}, "has other labels"),
    ],
)
def test_lines_that_contradict_each_other_are_refused(tmp_path, first, second, message):
    records = [{"file_name": "a.jpg", **first}, {"file_name": "a.jpg", **second}]
    good, bad = read_all(folder_of(tmp_path, "a.jpg", train=records))
    assert isinstance(good, Dialogue)
    assert message in str(bad)
    assert str(bad).startswith(f"{tmp_path / 'train.jsonl'}, line 2")
    assert "train.jsonl, line 1" in str(bad)


def test_one_id_for_two_files_is_refused(tmp_path):
    lines = [
        {"turns": [{"speaker": 0, "photos": [{"id": "x", "file_name": name}]}]}
        for name in ("a.jpg", "a.jpg", "b.jpg")
    ]
    found = read_all(folder_of(tmp_path, "a.jpg", "b.jpg", train=lines))
    assert "photo 'x' is 'b.jpg' here and 'a.jpg' before" in str(found[2])


A = {"file_name": "a.jpg"}
BOXED = {**A, "width": 640, "height": 480}


def boxed(*numbers: Any) -> dict[str, Any]:
    return {**BOXED, "objects": [{"label": "x", "bbox_xywh": list(numbers)}]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", r"line 1 is not JSON"),
        ([], r"line 1: it should be \{\.\.\.\} and is \[\]"),
        ({}, r"field file_name: it is missing"),
        ({"filename": "a.jpg"}, r"unknown field 'filename'; did you mean 'file_name'\?"),
        ({**A, "image": "a.jpg"}, r"'file_name' and 'image' say the same"),
        ({"file_name": 3}, r"field file_name: it should be text and is 3"),
        ({"file_name": "b.jpg"}, r"field file_name: 'b\.jpg' is not in .* or its images"),
        ({**A, "captions": "hi"}, r"field captions: it should be a list"),
        ({**A, "captions": ["hi", 3]}, r"captions\[1\]: it should be text and is 3"),
        ({**A, "captions": ["hi", " "]}, r"captions\[1\]: it is empty"),
        ({**A, "caption": ""}, r"field caption: it is empty"),
        ({**A, "caption": "a", "captions": ["b"]}, r"'captions' and 'caption' say the same"),
        ({**A, "caption": "a" * 100_001}, r"100,001 characters"),
        ({**A, "captions": ["a"] * 10_001}, r"captions: 10,001 entries"),
        ({**A, "labels": [None]}, r"labels\[0\]: it should be text and is null"),
        ({**A, "url": 1}, r"field url: it should be text"),
        ({**A, "objects": [{}]}, r"field width: it is missing; boxes are in pixels"),
        ({**A, "width": 0}, r"field width: it should be from 1 to 1,000,000 and is 0"),
        ({**A, "width": 1.5}, r"field width: it should be a whole number and is 1\.5"),
        ({**BOXED, "objects": {}}, r"field objects: it should be a list"),
        ({**BOXED, "objects": [{"label": "x"}]}, r"objects\[0\]\.bbox_xywh: it is missing"),
        ({**BOXED, "objects": [{"name": "x"}]}, r"objects\[0\]: unknown field 'name'"),
        (boxed(1, 2, 3), r"objects\[0\]\.bbox_xywh: it should be four numbers"),
        (boxed(1, 2, 3, "4"), r"four numbers"),
        (boxed(1, 2, 3, True), r"four numbers"),
        (boxed(1, 2, 3, float("nan")), r"four numbers"),
        (boxed(1, 2, 3, 10**400), r"four numbers"),
        (boxed(1, 2, 3, 0), r"it has no area"),
        (boxed(1, 2, -3, 4), r"it has no area"),
        (boxed(639, 2, 3, 4), r"it reaches from 639 to 642, and the photo from 0 to 640"),
        (boxed(0, -2, 3, 4), r"it reaches from -2 to 2, and the photo from 0 to 480"),
        (boxed(640.2, 2, 0.5, 4), r"it has no area"),
        ({"turns": [{"speaker": 0, "photos": [{}]}]}, r"photos\[0\]\.id: it is missing"),
        (
            {"turns": [{"speaker": 0, "photos": [{"file_name": "b.jpg"}]}]},
            r"photos\[0\]\.file_name: 'b\.jpg' is not in",
        ),
        (
            {"turns": [{"speaker": 0, "photos": [{"file_name": "a.jpg", "id": ""}]}]},
            r"photos\[0\]\.id: it is empty",
        ),
    ],
)
def test_a_bad_record_is_named_by_line_and_field(tmp_path, record, message):
    (bad,) = read_all(folder_of(tmp_path, "a.jpg", train=[record]))
    assert isinstance(bad, BadRecordError)
    assert str(bad).startswith(f"{tmp_path / 'train.jsonl'}, line 1")
    with pytest.raises(BadRecordError, match=message):
        raise bad


# ---- which file it means


def test_a_name_is_looked_for_below_the_folder_and_then_below_its_images(tmp_path):
    folder_of(tmp_path, "a.jpg", "images/a.jpg", "images/sub/b.jpg", "c.v2.png", "d.jpg", "d.txt")
    files = PhotoFiles(tmp_path)
    for name, expected in {
        "a.jpg": "a.jpg",
        "images/a.jpg": "images/a.jpg",
        "./images//a.jpg": "images/a.jpg",
        "sub/b.jpg": "images/sub/b.jpg",
        "sub/b": "images/sub/b.jpg",
        "c.v2": "c.v2.png",
        "d": "d.jpg",
        "a": "a.jpg",
    }.items():
        assert files.find(name, HERE) == expected


def test_an_ending_may_be_left_out_where_one_photo_has_the_name(tmp_path):
    folder_of(tmp_path, "a.jpg", "a.png")
    with pytest.raises(BadRecordError, match=r"may be 'a\.jpg' or 'a\.png'; write the whole"):
        PhotoFiles(tmp_path).find("a", HERE)


STRANGE = [
    *("\u7167 \u7247.jpg", "new\nline.jpg", "tab\t.jpg", "\U0001f600.jpg", "a'b\"c\\d.jpg"),
    *("x" * 251 + ".jpg", "%2e%2e.jpg", "-rf.jpg", "e\u0301.jpg", "a..b.jpg", "two  blanks .jpg"),
]


def test_strange_names_are_names(tmp_path):
    folder_of(tmp_path, *STRANGE, train=[{"file_name": name, "caption": "c"} for name in STRANGE])
    assert photos_of(read_all(tmp_path)) == set(STRANGE)
    assert [name for name, _ in read_photos(tmp_path)] == STRANGE
    source = open_dataset(
        "photo_folder", "train", data_dir=tmp_path / ".data", manual_dir=tmp_path, photos=True
    )
    found = {
        source[i].turns[1].photos[0].id: source[i].turns[1].photos[0] for i in range(len(source))
    }
    assert {name: photo.file.read() for name, photo in found.items()} == dict(read_photos(tmp_path))


def test_a_name_that_is_no_text_is_nobodys_photo(tmp_path):
    folder_of(tmp_path, "a.jpg", train=[A])
    (tmp_path / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(picture())
    assert len(read_all(tmp_path)) == 1
    assert len(read_photos(tmp_path)) == 1
    assert len(photo_origin(tmp_path).digest) == 64


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_is_found_however_it_is_written(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(form, "caf\u00e9.jpg")
    folder_of(tmp_path, name)
    assert PhotoFiles(tmp_path).find(unicodedata.normalize(other, name), HERE) == name


@pytest.mark.parametrize(
    "name",
    ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "", ".", "./", "a.jpg\0", "images/.."],
)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(picture())
    folder = folder_of(tmp_path / "mine", "a.jpg", train=[{"file_name": name, "caption": "c"}])
    (bad,) = read_all(folder)
    assert "is no path below" in str(bad)
    assert read_photos(folder) == []


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_a_photo(tmp_path):
    outside = folder_of(tmp_path / "out", "secret.jpg")
    names = ["leaves.jpg", "way/secret.jpg", "stays.jpg", "circle.jpg", "dead.jpg", "way"]
    lines = [{"file_name": name, "caption": "c"} for name in names]
    folder = folder_of(tmp_path / "mine", "sub/a.jpg", train=lines)
    (folder / "leaves.jpg").symlink_to(outside / "secret.jpg")
    (folder / "way").symlink_to(outside)
    (folder / "stays.jpg").symlink_to("sub/a.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "dead.jpg").symlink_to("nowhere.jpg")
    (folder / "sub" / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.jpg")
    found = read_all(folder)
    assert photos_of([one for one in found if isinstance(one, Dialogue)]) == {"stays.jpg"}
    assert all("is a link that leads out" in str(found[k]) for k in (0, 1, 3, 4, 5))
    assert read_photos(folder) == [("stays.jpg", picture(0))]


def test_a_folder_of_a_hundred_thousand_files_is_walked_without_asking_for_each(monkeypatch):
    class Entry:
        def __init__(self, name: str):
            self.name, self.path = name, f"/x/{name}"

        def is_dir(self, follow_symlinks: bool = True) -> bool:
            return False

        def is_symlink(self) -> bool:
            return False

        def is_file(self) -> bool:
            return True

        def stat(self) -> None:
            raise AssertionError("asked for a file's size")

    class Entries(list):
        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *error: Any) -> None:
            pass

    walks = []

    def scandir(folder: str) -> Entries:
        walks.append(folder)
        return Entries(Entry(f"{k:06}.jpg") for k in range(100_000))

    monkeypatch.setattr(files_module.os, "scandir", scandir)
    files = PhotoFiles(Path("/x"))
    assert all(files.find(f"{k:06}", HERE) == f"{k:06}.jpg" for k in range(0, 100_000, 7))
    assert len(walks) == 1


# ---- which split


def captions(count: int, per_photo: int = 1) -> list[dict[str, Any]]:
    return [
        {"file_name": f"{k}.jpg", "captions": [f"{k} {j}" for j in range(per_photo)]}
        for k in range(count)
    ]


@pytest.mark.parametrize(("count", "n"), [(3, 3), (11, 5), (40, 7)])
def test_folds_are_of_equal_size_and_hold_every_photo_once(tmp_path, count, n):
    folder = folder_of(tmp_path, *(f"{k}.jpg" for k in range(count)), photos=captions(count, 2))
    tests = []
    for k in range(1, n + 1):
        found = {split: photos_of(read(folder, f"fold-{k}-of-{n}")[split]) for split in SPLITS}
        assert sum(map(len, found.values())) == count
        assert set().union(*found.values()) == {f"{k}.jpg" for k in range(count)}
        tests.append((found["dev"], found["test"]))
    assert {len(test) for _, test in tests} <= {count // n, -(-count // n)}
    assert Counter(name for _, test in tests for name in test).most_common(1)[0][1] == 1
    assert [dev for dev, _ in tests] == [test for _, test in tests[1:] + tests[:1]]


def test_splits_do_not_follow_the_order_of_lines_nor_other_photos(tmp_path):
    lines = captions(60, 3)
    names = [f"{k}.jpg" for k in range(80)]
    folder = folder_of(tmp_path, *names, photos=lines)
    shares, fold = read(folder), read(folder, "fold-2-of-5")
    random.Random(0).shuffle(lines)
    folder_of(tmp_path, photos=lines)
    for config, before in (("", shares), ("fold-2-of-5", fold)):
        after = read(folder, config)
        assert {s: set(after[s]) for s in SPLITS} == {s: set(before[s]) for s in SPLITS}
    folder_of(tmp_path, photos=lines + captions(80)[60:])
    for split in SPLITS:
        assert set(shares[split]) <= set(read(folder)[split])


def test_lines_of_a_photo_and_photos_of_a_dialogue_are_in_one_split(tmp_path):
    names = [f"{k}.jpg" for k in range(60)]
    chain = [
        {
            "id": f"d{k}",
            "turns": [
                {"speaker": 0, "photos": [{"file_name": names[k]}, {"file_name": names[k + 1]}]}
            ],
        }
        for k in range(5)
    ]
    silent = [{"id": f"s{k}", "turns": [{"speaker": 0, "text": "hi"}]} for k in range(30)]
    lines = [{"file_name": name, "caption": f"{j}"} for j in range(3) for name in names[3:]]
    folder = folder_of(tmp_path, *names, photos=[*lines, *chain, *silent])
    for config in ("", "split-50-25-25", *(f"fold-{k}-of-4" for k in range(1, 5))):
        found = read(folder, config)
        photos = [photos_of(found[split]) for split in SPLITS]
        assert sum(map(len, photos)) == 60
        assert any(set(names[:6]) <= part for part in photos)
        ids = Counter(dialogue.id for split in SPLITS for dialogue in found[split])
        assert len(ids) == 57 * 3 + 5 + 30
        assert set(ids.values()) == {1}


@pytest.mark.parametrize("percent", [(80, 10, 10), (50, 30, 20), (90, 0, 10), (34, 33, 33)])
def test_shares_are_those_asked_for(percent):
    units = [f"photo {k}" for k in range(20_000)]
    found = Counter(Shares(percent).of(units).values())
    for split, share in zip(SPLITS, percent, strict=True):
        # Five standard deviations of a binomial.
        spread = 5 * np.sqrt(20_000 * share / 100 * (1 - share / 100))
        assert abs(found[split] - 200 * share) <= spread


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", Shares()),
        ("fold-1-of-3", Fold(1, 3)),
        ("fold-10-of-10", Fold(10, 10)),
        ("split-70-15-15", Shares((70, 15, 15))),
        ("split-90-10-0", Shares((90, 10, 0))),
        *((bad, None) for bad in ("fold-0-of-5", "fold-6-of-5", "fold-1-of-2", "fold-1-of-101")),
        *((bad, None) for bad in ("fold", "fold-a-of-5", "split-80-10-11", "split-0-50-50")),
        *((bad, None) for bad in ("fold-\u0661-of-5", "fold-1-of-5\n", "split-100-0-0")),
    ],
)
def test_the_name_of_a_config_says_how_to_split(config, expected):
    assert parse_config(config) == expected
    assert Builder.has_config(config) == (expected is not None)


def test_too_few_photos_to_split_are_refused(tmp_path):
    folder = folder_of(tmp_path, "0.jpg", "1.jpg", "2.jpg", photos=captions(3))
    with pytest.raises(UserError, match=r"\(there: 3\) is left for .*fold-1-of-3"):
        read(folder)
    with pytest.raises(UserError, match=r"for 4 folds there are too few photos \(3\)"):
        read(folder, "fold-1-of-4")
    assert [len(found) for found in read(folder, "fold-1-of-3").values()] == [1, 1, 1]


def test_bad_lines_of_one_table_are_counted_once(tmp_path):
    lines = [*captions(30), {"file_name": "none.jpg"}, "{", {"file_name": "0.jpg"}]
    folder = folder_of(tmp_path, *(f"{k}.jpg" for k in range(30)), photos=lines)
    found = read(folder)
    bad = [one for split in SPLITS for one in found[split] if isinstance(one, BadRecordError)]
    assert [str(one).split(",")[1][:8] for one in bad] == [" line 31", " line 32", " line 33"]
    assert sum(map(len, found.values())) == 33


def test_a_photo_in_two_given_splits_is_reported(tmp_path, caplog):
    folder = folder_of(
        *(tmp_path, "a.jpg", "b.jpg"),
        train=[{**A, "caption": "one"}],
        test=[{**A, "caption": "two"}, {"file_name": "b.jpg", "caption": "three"}],
    )
    with caplog.at_level(logging.WARNING):
        found = read(folder)
    assert {split: [d.id for d in found[split]] for split in found} == {
        "train": ["a.jpg#0"],
        "test": ["a.jpg#1", "b.jpg#0"],
    }
    assert "1 photos of 'test' are in another split too ('a.jpg' in" in caplog.text


def test_each_table_numbers_its_own_dialogues(tmp_path):
    hi = [{"turns": [{"speaker": 0, "text": "hi"}]}]
    found = read(folder_of(tmp_path, train=hi, dev=hi))
    assert [found["train"][0].id, found["dev"][0].id] == ["1", "1"]


# ---- the folder and its names


def test_what_is_wrong_with_the_folder_is_said(tmp_path):
    with pytest.raises(UserError, match=r"--config\.data\.manual_dir=DIR"):
        Builder.find("", None)
    with pytest.raises(UserError, match=r"is not a folder"):
        Builder.find("", tmp_path / "no")
    with pytest.raises(UserError, match=r"is not on this machine"):
        Builder.find("", "gs://bucket/photos")
    folder_of(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"holds no \.jsonl file \(it holds a\.jpg\)"):
        Builder.find("", tmp_path)
    folder_of(tmp_path, one=[A])
    assert Builder.find("", tmp_path).splits == SPLITS
    folder_of(tmp_path, train=[A])
    with pytest.raises(UserError, match=r"holds one\.jsonl and train\.jsonl"):
        Builder.find("", tmp_path)
    (tmp_path / "one.jsonl").unlink()
    assert Builder.find("", tmp_path).splits == ("train",)
    with pytest.raises(UserError, match=r"has its own splits \(train\)"):
        Builder.find("fold-1-of-5", tmp_path)
    folder_of(tmp_path, two=["", "{"])
    (tmp_path / "train.jsonl").unlink()
    origin = Builder.find("", tmp_path)
    with pytest.raises(UserError, match=r"no line that can be used .*line 2 is not JSON"):
        origin.fetch(None)


def test_an_unknown_config_is_answered_with_examples(tmp_path):
    with pytest.raises(UserError, match=r"'fold-6-of-5'; there are fold-1-of-5, split-80-10-10"):
        open_dataset("photo_folder/fold-6-of-5", "test", data_dir=tmp_path, manual_dir=tmp_path)


def test_the_name_follows_the_tables_the_names_of_the_photos_and_the_fold(tmp_path):
    folder = folder_of(tmp_path, "a.jpg", "b.jpg", all=[{**A, "caption": "c"}])
    origins = [Builder.find(config, folder) for config in ("", "fold-1-of-3", "fold-2-of-3")]
    assert len({origin.digest for origin in origins}) == 3
    names = {origin.config for origin in origins}
    before = Builder.find("", folder).config
    (folder / "b.jpg").rename(folder / "c.jpg")
    names.add(Builder.find("", folder).config)
    folder_of(folder, all=[{**A, "caption": "d"}])
    names.add(Builder.find("", folder).config)
    assert len(names) == 5
    folder_of(folder, all=[{**A, "caption": "c"}])
    (folder / "c.jpg").rename(folder / "b.jpg")
    assert Builder.find("", folder).config == before
    assert {name.rpartition("-")[0] for name in names} == {"", "fold-1-of-3", "fold-2-of-3"}


def test_the_photos_are_named_by_their_content_and_are_the_same_for_all_folds(tmp_path):
    names = [f"{k}.jpg" for k in range(5)]
    folder = folder_of(tmp_path / "mine", *names, all=captions(5))

    before = photo_origin(folder).digest
    for config in ("fold-1-of-3", "fold-2-of-3"):
        builder = Builder(data_dir=tmp_path / "d", config=config, manual_dir=folder)
        assert builder.photos().digest == before
    old = (folder / "3.jpg").stat()
    (folder / "3.jpg").write_bytes(picture(3)[::-1])  # as many bytes
    os.utime(folder / "3.jpg", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert photo_origin(folder).digest != before


def test_many_bytes_are_told_apart_by_size_and_time(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345678")
    exact, cheap = (file_digests({"a": path}, exact_bytes=limit) for limit in (8, 7))
    assert (exact.exact, cheap.exact) == (True, False)
    os.utime(path, ns=(0, 0))
    assert file_digests({"a": path}, exact_bytes=8) == exact
    assert file_digests({"a": path}, exact_bytes=7) != cheap


def test_a_photo_that_changes_while_it_is_read_is_noticed(tmp_path):
    folder = folder_of(tmp_path / "mine", "0.jpg", train=captions(1))
    origin = photo_origin(folder)
    (folder / "0.jpg").write_bytes(picture(9))
    with pytest.raises(UserError, match=r"0\.jpg changed while it was read"):
        list(origin.read(epath.Path(tmp_path)))


def test_photos_that_cannot_be_used_stop_the_preparation_unless_they_are_accepted(tmp_path):
    names = [f"{k}.jpg" for k in range(6)]
    folder = folder_of(tmp_path / "mine", *names, train=captions(6))
    (folder / "1.jpg").write_bytes(b"")
    (folder / "2.jpg").write_bytes(picture(2)[:-200])
    (folder / "3.jpg").write_bytes(b"<html>")
    (folder / "4.jpg").write_bytes(picture(4, "PNG"))  # the content decides
    (folder / "5.jpg").write_bytes(picture(5, "PNG", size=(30_000, 1)))

    def opened(limit: int) -> dict[str, Any]:
        source = open_dataset(
            *("photo_folder", "train"),
            data_dir=tmp_path / "d",
            manual_dir=folder,
            max_bad_records=limit,
            photos=True,
        )
        photos = [source[i].turns[1].photos[0] for i in range(len(source))]
        return {photo.id: photo.file for photo in photos}

    with pytest.raises(UserError, match=r"photo 1\.jpg: it is empty; .*max_bad_records"):
        opened(0)
    with pytest.raises(UserError, match=r"photo 5\.jpg: .*30,000 x 1 pixels.*4 such photos"):
        opened(3)
    found = opened(4)
    assert {name for name, file in found.items() if file is None} == {
        *("1.jpg", "2.jpg", "3.jpg", "5.jpg")
    }
    assert found["4.jpg"].read() == picture(4, "PNG")


def test_a_file_that_is_too_large_or_cannot_be_read_is_a_bad_record(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 100)
    folder = folder_of(tmp_path, "0.jpg", "1.jpg", train=captions(2))
    (folder / "1.jpg").write_bytes(bytes(100))
    whole = Path.open

    def refuse(path: Path, *args: Any) -> Any:
        if path.name == "1.jpg":
            raise PermissionError(13, "Permission denied")
        return whole(path, *args)

    monkeypatch.setattr(Path, "open", refuse)
    found = dict(read_photos(folder))
    assert "more than 100 bytes" in str(found["0.jpg"])
    assert "Permission denied" in str(found["1.jpg"])
    monkeypatch.undo()
    assert dict(read_photos(folder))["1.jpg"] == bytes(100)


# ---- real data


@pytest.fixture(scope="module")
def coco(shared_data) -> Path:
    return shared_data("coco_mini")


def test_the_published_counts_of_real_photos_are_found(coco):
    found = [one for split in read(coco).values() for one in split]
    assert all(isinstance(one, Dialogue) for one in found)
    photos = {p.id: p for one in found for turn in one.turns for p in turn.photos}
    captioned = Counter(one.turns[-1].photos[0].id for one in found if len(one.turns) == 2)
    assert len(photos) == 491
    assert len(captioned) == 363
    assert Counter(captioned.values()) == {5: 362, 6: 1}
    assert sum(bool(photo.boxes) for photo in photos.values()) == 410
    records = [json.loads(line) for line in (coco / "images.jsonl").open()]
    for record in records:
        photo = photos[f"images/{record['file_name']}"]
        assert set(photo.labels) == {item["label"] for item in record["objects"]}
        for box, item in zip(photo.boxes, record["objects"], strict=True):
            scale = np.array([record["width"], record["height"]] * 2)
            corners = np.array([box.x, box.y, box.width, box.height]) * scale
            np.testing.assert_allclose(corners, item["bbox_xywh"], atol=0.11)
            assert 0 <= box.x < box.x + box.width <= 1 + 1e-12
            assert 0 <= box.y < box.y + box.height <= 1 + 1e-12


def test_every_real_photo_is_tested_in_one_of_five_folds(coco):
    tests = [photos_of(read(coco, f"fold-{k}-of-5")["test"]) for k in range(1, 6)]
    assert sorted(map(len, tests)) == [98, 98, 98, 98, 99]
    assert len(set().union(*tests)) == 491


def test_real_photos_come_as_they_are(coco, tmp_path):
    origin = photo_origin(coco)
    found = dict(origin.read(epath.Path(tmp_path)))
    assert len(found) == 491
    for name in sorted(found)[::50]:
        assert found[name] == (coco / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "dialogues", "photos"), [("chinese_memes", 400, 400), ("imgflip_memes", 17_600, 88)]
)
def test_real_memes_are_read_as_they_are(shared_data, name, dialogues, photos):
    found = [one for split in read(shared_data(name)).values() for one in split]
    assert all(isinstance(one, Dialogue) and one.turns[0].text for one in found)
    assert (len(found), len(photos_of(found))) == (dialogues, photos)
