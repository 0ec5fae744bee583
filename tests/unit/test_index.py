"""The index: made once, never used for other data, and honest about what it left out."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.data import index as index_lib
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.index import build_index, dense_keys, open_index
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.errors import UserError


def dialogue(name: str, text: str = "hello", photos: tuple[str, ...] = ("p",)) -> Dialogue:
    return Dialogue(name, (Turn(0, text), Turn(0, "", tuple(Photo(p) for p in photos))))


class Shares:
    """An example per photo; counts how often a record is looked at."""

    key_names = ("photo",)
    cached = ()
    photos = False
    ragged = {}  # noqa: RUF012

    def __init__(self, **identity):
        self.identity = {"task": "shares", **identity}
        self.looks = 0

    def examples(self, d):
        self.looks += 1
        photos = [p for turn in d.turns for p in turn.photos]
        if not photos:
            raise SkipRecord("no photo")
        if not d.turns[0].text:
            raise SkipRecord("no text")
        return [
            Example(k, {"text": len(d.turns[0].text)}, {"photo": p.id}, {"rank": -k})
            for k, p in enumerate(photos)
        ]


RECORDS = [
    dialogue("a", "one", ("p", "q")),
    dialogue("b", ""),
    dialogue("c", "three"),
    dialogue("d", photos=()),
    dialogue("e", "fünf", ("q",)),
    dialogue("f", ""),
]


def opened(task, source, folder, limit=1.0):
    return open_index(task, source, cache_dir=str(folder), max_skipped_fraction=limit)


def same(a, b):
    for name in ("record", "sub"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("lengths", "keys", "targets"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])
            assert x[key].dtype == y[key].dtype
    assert a.skipped == b.skipped


def test_examples_stand_in_the_order_of_the_records_and_reasons_are_counted():
    index = build_index(Shares(), ListSource(RECORDS))
    assert index.record.tolist() == [0, 0, 2, 4] and index.sub.tolist() == [0, 1, 0, 0]
    assert index.lengths["text"].tolist() == [3, 3, 5, 4]
    assert index.targets["rank"].tolist() == [0, -1, 0, 0]
    assert index.skipped == {"no text": 2, "no photo": 1}
    p, q = index.keys["photo"][:2]
    assert p != q and index.keys["photo"].tolist() == [p, q, p, q]


def test_the_cache_gives_the_same_index_without_reading_a_record(tmp_path):
    task, source = Shares(), ListSource(RECORDS)
    made = opened(task, source, tmp_path)
    assert task.looks == len(RECORDS)
    same(opened(task, source, tmp_path), made)
    assert task.looks == len(RECORDS)


@pytest.mark.parametrize("what", ["task", "source", "format"])
def test_another_task_source_or_format_is_not_answered_from_the_cache(tmp_path, what, monkeypatch):
    opened(Shares(), ListSource(RECORDS), tmp_path)
    task, source = Shares(), ListSource(RECORDS)
    if what == "task":
        task = Shares(max_length=3)
    elif what == "source":
        source = ListSource([*RECORDS[:-1], dialogue("f", "new")])
    else:
        monkeypatch.setattr(index_lib, "_FORMAT", index_lib._FORMAT + 1)
    opened(task, source, tmp_path)
    assert task.looks == len(RECORDS)


@pytest.mark.parametrize("suffix", [".npz", ".sha256"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone", "binary"])
def test_a_damaged_cache_is_made_anew(tmp_path, suffix, damage):
    source = ListSource(RECORDS)
    made = opened(Shares(), source, tmp_path)
    (file,) = (tmp_path / "index").glob(f"*{suffix}")
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(
            {
                "flipped": bytes(data),
                "cut": bytes(data[: len(data) // 2]),
                "empty": b"",
                "binary": b"\xff\xfe\x00",
            }[damage]
        )
    task = Shares()
    same(opened(task, source, tmp_path), made)
    assert task.looks == len(RECORDS)
    opened(task, source, tmp_path)
    assert task.looks == len(RECORDS)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "index").write_text("a file stands here")
    with pytest.raises(UserError, match=r"cannot write the index .*config\.data\.data_dir"):
        opened(Shares(), ListSource(RECORDS), tmp_path)


def test_more_skipped_records_than_allowed_stop_the_run_with_the_reasons(tmp_path):
    source = ListSource(RECORDS, name="mine:train")
    assert len(opened(Shares(), source, tmp_path, limit=0.5)) == 4
    message = r"mine:train: 3 of 6 records hold no example \(2 x no text; 1 x no photo\)"
    for _ in range(2):  # from the cache just the same
        with pytest.raises(UserError, match=message):
            opened(Shares(), source, tmp_path, limit=0.49)


@pytest.mark.parametrize(
    ("records", "reason"), [([], "it has no record"), (RECORDS[1:2], "1 x no text")]
)
def test_a_source_without_any_example_stops_the_run(tmp_path, records, reason):
    with pytest.raises(UserError, match=f"holds no example for this task: {reason}"):
        opened(Shares(), ListSource(records), tmp_path)


def test_keys_are_the_same_numbers_across_sources_and_differ_where_the_names_differ():
    a = build_index(Shares(), ListSource([dialogue("a", photos=("p", "q", "p"))]))
    b = build_index(Shares(), ListSource([dialogue("b", photos=("r", "q"))]))
    x, y = dense_keys([a, b], ("photo",))
    assert x.shape == (3, 1) and y.shape == (2, 1) and x.dtype == np.int32
    assert x[0] == x[2] != x[1] and y[1] == x[1] and y[0] not in x
    assert min(x.min(), y.min()) >= 0


def test_a_task_without_keys_gets_empty_columns():
    a = build_index(Shares(), ListSource(RECORDS))
    (x,) = dense_keys([a], ())
    assert x.shape == (4, 0)
