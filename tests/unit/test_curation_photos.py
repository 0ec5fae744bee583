"""Choosing photos by command: Open Images' files as they come, and what is said of bad ones."""

from __future__ import annotations

import json
import random
import re

import pytest

from mmjax.curation import photos
from mmjax.curation.bad_rows import BadRows
from mmjax.curation.open_images import read_boxes, read_class_names, read_hierarchy
from mmjax.curation.photo_table import read_table
from mmjax.data.schema import Box
from mmjax.errors import UserError

# The columns of oidv6-train-annotations-bbox.csv.
HEADING = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside,XClick1X"
)
CLASSES = {"/m/1": "Man", "/m/2": "Dog", "/m/3": "Pizza", "/m/4": "Car", "/m/5": "Animal"}
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": "/m/1", "Part": [{"LabelName": "/m/9"}]},
        {"LabelName": "/m/5", "Subcategory": [{"LabelName": "/m/2"}]},
        {"LabelName": "/m/3"},
        {"LabelName": "/m/4"},
    ],
}


def row(photo, label, x=(0.25, 0.75), y=(0.2, 0.8)):
    corners = ",".join(f"{v}" if isinstance(v, str) else f"{v:.6f}" for v in (*x, *y))
    return f"{photo},xclick,{label},1,{corners},0,0,0,0,0,0.5"


@pytest.fixture
def folder(tmp_path):
    """Names and hierarchy of five classes; `boxes.csv` is the test's."""
    lines = "".join(f"{key},{name}\n" for key, name in CLASSES.items())
    (tmp_path / "classes.csv").write_text(lines)
    (tmp_path / "hierarchy.json").write_text(json.dumps(HIERARCHY))
    return tmp_path


def command(folder, *rows, heading=HEADING, more=()):
    text = "\n".join([heading, *rows]) + "\n" if rows or heading else ""
    (folder / "boxes.csv").write_text(text)
    return photos.run(
        [
            f"--boxes={folder / 'boxes.csv'}",
            f"--classes={folder / 'classes.csv'}",
            f"--hierarchy={folder / 'hierarchy.json'}",
            f"--out={folder / 'out'}",
            *more,
        ]
    )


def verdicts(folder):
    lines = (folder / "out" / "photos.jsonl").read_text().splitlines()
    return {line["photo"]: line for line in map(json.loads, lines)}


def test_photos_of_open_images_are_kept_and_dropped_for_their_boxes(folder, capsys):
    rows = [
        *(row("00a", "/m/1"), row("00a", "/m/4")),
        row("00b", "/m/2", (0, 0.01), (0, 0.01)),
        row("00c", "/m/1", (0, 0.1), (0.2, 0.8)),
        row("00d", "/m/4"),
        *(row("00e", "/m/1", (0.45, 0.55), (0.45, 0.55)), row("00e", "/m/3"), row("00e", "/m/77")),
    ]
    assert command(folder, *rows) == 0
    found = verdicts(folder)
    assert found["00a"] == {"photo": "00a", "kept": True, "groups": ["people"], "labels": ["Man"]}
    assert found["00b"]["labels"] == ["Animal"]
    assert found["00c"] == {"photo": "00c", "kept": False, "reason": "people at the border"}
    assert found["00d"]["reason"] == "no listed label"
    assert found["00e"]["groups"] == ["food"]
    statistics = json.loads((folder / "out" / "statistics.json").read_text())
    assert statistics["photos"] == 5 and statistics["kept"] == 3
    assert statistics["groups"]["people"] == {"before": 3, "after": 1}
    assert statistics["groups"]["animal"] == {"before": 1, "after": 1}
    assert statistics["labels"]["Man"] == {"before": 3, "after": 1}
    assert statistics["unknown_labels"] == {"/m/77": 1}
    out = capsys.readouterr().out.splitlines()
    assert ["photos", "5", "3"] in [line.split() for line in out]
    assert ["people", "3", "1"] in [line.split() for line in out]
    assert any("not known" in line and "/m/77 (1)" in line for line in out)


def test_without_the_hierarchy_a_dog_is_no_animal(folder, capsys):
    assert command(folder, row("a", "/m/2"), row("b", "/m/5"), more=["--below=none"]) == 0
    assert not verdicts(folder)["a"]["kept"] and verdicts(folder)["b"]["kept"]
    arguments = [f"--boxes={folder}/boxes.csv", f"--classes={folder}/classes.csv", "--out=x"]
    assert photos.run(arguments) == 2
    assert "--hierarchy" in capsys.readouterr().err


def test_kept_photos_are_split_and_their_proportions_told(folder, capsys):
    kinds = ["/m/1"] * 30 + ["/m/2"] * 10 + ["/m/4"] * 7
    random.Random(0).shuffle(kinds)
    rows = [row(f"p{i:02}", kind) for i, kind in enumerate(kinds)]
    assert command(folder, *rows, more=["--split=20,8,8", "--seed=5"]) == 0
    splits = json.loads((folder / "out" / "splits.json").read_text())
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 20, "dev": 8, "test": 8}
    every = [name for ids in splits.values() for name in ids]
    kept = {name for name, line in verdicts(folder).items() if line["kept"]}
    assert len(set(every)) == 36 and set(every) < kept
    dogs = [sum(verdicts(folder)[name]["labels"] == ["Animal"] for name in x)
            for x in splits.values()]  # fmt: skip
    assert dogs == [5, 2, 2]
    assert "largest deviation: 0.00 points" in capsys.readouterr().out
    assert command(folder, *rows, more=["--split=40,1,0"]) == 2
    assert "cannot be made of 40 photos" in capsys.readouterr().err


GOOD = row("a", "/m/1")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, row("a", "/m/1", (0.2, 1.2))], "line 3: XMin 0.2 and XMax 1.2"),
        ([row("a", "/m/1", (-0.01, 0.5))], "line 2: XMin -0.01"),
        ([row("a", "/m/1", y=(0.8, 0.2))], "line 2: YMin 0.8 and YMax 0.2 are not in order"),
        ([row("a", "/m/1", ("nan", "0.5"))], "line 2: XMin nan"),
        ([row("a", "/m/1", ("0.1", "inf"))], "line 2: .*inf"),
        ([row("a", "/m/1", ("x", "0.5"))], "line 2: the corners x,0.5"),
        ([GOOD, "a,xclick"], "line 3: 2 columns, and the heading has 14"),
        ([row("", "/m/1")], "line 2: ImageID or LabelName is empty"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_and_counted_where_accepted(
    folder, capsys, rows, message
):
    assert command(folder, *rows) == 2
    error = capsys.readouterr().err
    assert re.search(f"boxes.csv, {message}", error)
    assert error.count("\n") == 1 and not (folder / "out" / "photos.jsonl").exists()
    assert command(folder, *rows, GOOD, more=["--max_bad_records=1"]) == 0
    statistics = json.loads((folder / "out" / "statistics.json").read_text())
    assert statistics["bad_records"] == 1 and "boxes.csv, line" in statistics["first_bad_record"]
    assert "bad records passed over: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "heading", "message"),
    [
        ([], HEADING, "holds no box"),
        ([], "", "no column ImageID, LabelName, XMin"),
        ([GOOD], HEADING.replace("XMax", "X2"), "line 1 has no column XMax"),
        ([GOOD, row("b", "/m/1"), GOOD], HEADING, "line 4: other photos .* 'a'.* sort the file"),
        ([row("a", "/m/8")], HEADING, "none of its labels is known"),
        ([GOOD, "a" * 70_000], HEADING, "line 3 has more than 65,536 characters"),
    ],
)
def test_a_file_of_boxes_that_cannot_be_used_is_one_sentence(
    folder, capsys, rows, heading, message
):
    assert command(folder, *rows, heading=heading, more=["--max_bad_records=1"]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("classes.csv", ""), "names no class"),
        (("classes.csv", "/m/1\n"), "line 1 should be a class and its name"),
        (("classes.csv", "/m/1,Man\n/m/1,Woman\n"), "line 2: class '/m/1' stands there twice"),
        (("classes.csv", "/m/1,Man\n"), "class '/m/5' has no name"),
        (("classes.csv", b"\xff\xfe"), "is no table"),
        (("hierarchy.json", "[]"), "should be {LabelName"),
        (("hierarchy.json", "{"), "cannot be read as JSON"),
    ],
)
def test_names_and_hierarchy_of_another_form_are_refused(folder, capsys, change, message):
    name, content = change
    if name == "classes.csv" and content == "/m/1,Man\n":
        content += "".join(f"{k},{n}\n" for k, n in CLASSES.items() if k in ("/m/3", "/m/4"))
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command(folder, GOOD) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("given", ["boxes.txt", "nowhere.csv", "nowhere.jsonl"])
def test_files_that_are_not_there_are_named(folder, capsys, given):
    arguments = [f"--boxes={folder / given}", f"--classes={folder}/classes.csv"]
    assert photos.run([*arguments, "--below=none", f"--out={folder}/out"]) == 2
    assert given in capsys.readouterr().err


def test_boxes_are_read_as_corner_and_size_photo_by_photo(folder):
    rows = [row("a", "/m/1", (0.25, 0.5), (0, 1)), row("a", "/m/2"), row("b", "/m/99")]
    (folder / "boxes.csv").write_text("\n".join([HEADING, *rows]))
    names = read_class_names(folder / "classes.csv")
    a, b = read_boxes(folder / "boxes.csv", names, BadRows(0))
    assert a.id == "a" and a.boxes[0] == Box("Man", 0.25, 0.0, 0.25, 1.0)
    assert [box.label for box in (*a.boxes, *b.boxes)] == ["Man", "Dog", "/m/99"]
    assert read_hierarchy(folder / "hierarchy.json", names)["Dog"] == {"Animal"}


def test_a_heading_above_the_names_is_no_class(folder):
    (folder / "classes.csv").write_text("LabelName,DisplayName\n/m/1,Man\n")
    assert read_class_names(folder / "classes.csv") == {"/m/1": "Man"}


TABLE_LINE = {"file_name": "a.jpg", "width": 200, "height": 100}
OTHER_LINE = TABLE_LINE | {"file_name": "b.jpg"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"width": 200}, "line 2, field file_name: it is missing"),
        ({**OTHER_LINE, "objects": [{"label": "dog", "bbox_xywh": [0, 0, 300, 9]}]}, "line 2.*300"),
        ({"file_name": "b", "objects": [{"label": "dog", "bbox_xywh": [0, 0, 1, 1]}]}, "width"),
        (TABLE_LINE, "photo 'a.jpg' was described in"),
        ("{", "is not JSON"),
    ],
)
def test_a_bad_line_of_a_table_is_named(tmp_path, line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(TABLE_LINE)}\n{text}\n")
    with pytest.raises(UserError, match=message):
        list(read_table(tmp_path / "a.jsonl", BadRows(0)))
    bad = BadRows(1)
    (photo,) = read_table(tmp_path / "a.jsonl", bad)
    assert photo.id == "a.jpg" and photo.boxes == () and bad.count == 1


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no photo"):
        list(read_table(tmp_path / "a.jsonl", BadRows(0)))
