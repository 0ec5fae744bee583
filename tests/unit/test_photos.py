"""A dataset's photos: prepared once, found by id, left out where they cannot be had."""

from __future__ import annotations

import io
import pickle

import pytest
from PIL import Image

from mmjax.data.photos import PhotoSet
from mmjax.data.sources import _prepare
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.origin import PhotoOrigin
from tfds_builders.photo_set import PhotoSetBuilder


def photo(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


RED, GREEN, BLUE = photo(255, 0, 0), photo(0, 255, 0), photo(0, 0, 255)
ORDINARY = [("train/1", RED), ("ünï cödé\n", GREEN), ("again", RED), ("last", BLUE)]


def prepared(data_dir, items, max_bad_records=0, digest="d" * 64) -> PhotoSet:
    builder = PhotoSetBuilder(
        data_dir=data_dir,
        dataset="made_up",
        photos=PhotoOrigin("all", digest, lambda folder: iter(items)),
        max_bad_records=max_bad_records,
    )
    _prepare(builder, data_dir)
    builder.check_prepared()
    return PhotoSet(builder.data_path, data_dir)


def test_each_photo_is_found_by_its_id_byte_for_byte(tmp_path):
    photos = prepared(tmp_path, ORDINARY)
    assert sorted(photos) == sorted(name for name, _ in ORDINARY)
    for name, data in ORDINARY:
        assert photos[name].read() == data
    assert "nowhere" not in photos


def test_equal_content_has_equal_digests_and_other_content_has_not(tmp_path):
    photos = prepared(tmp_path, ORDINARY)
    digests = [photos[name].digest for name, _ in ORDINARY]
    assert digests[0] == digests[2] and len(set(digests)) == 3


def test_the_table_of_ids_is_made_once(tmp_path, monkeypatch):
    first = prepared(tmp_path, ORDINARY)
    monkeypatch.setattr(PhotoSet, "_read_all", lambda self: pytest.fail("read again"))
    again = prepared(tmp_path, ORDINARY)
    assert dict(again._rows) == dict(first._rows) and again.fingerprint == first.fingerprint


def test_a_damaged_table_is_made_again(tmp_path):
    prepared(tmp_path, ORDINARY)
    (table,) = (tmp_path / "index").glob("photos-*.npz")
    table.write_bytes(table.read_bytes()[:-3])
    assert prepared(tmp_path, ORDINARY)["last"].read() == BLUE


def test_photos_can_be_read_in_another_process(tmp_path):
    found = prepared(tmp_path, ORDINARY)["last"]
    found.read()
    copy = pickle.loads(pickle.dumps(found))
    assert copy == found and hash(copy) == hash(found) and copy.read() == BLUE


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"", "photo bad: it is empty"),
        (RED[:-26], "photo bad: it is damaged"),
        (b"<html>", "photo bad: it is no image"),
        (BadRecordError("photo bad: as the dataset says"), "as the dataset says"),
    ],
)
def test_a_photo_that_cannot_be_used_is_named_and_may_be_left_out(tmp_path, item, reason):
    items = [*ORDINARY, ("bad", item)]
    with pytest.raises(UserError, match=rf"{reason}.*max_bad_records=N"):
        prepared(tmp_path, items)
    photos = prepared(tmp_path, items, max_bad_records=1)
    assert len(photos) == 4 and "bad" not in photos
    with pytest.raises(UserError, match=r"without 1 photos .*max_bad_records=1"):
        prepared(tmp_path, items)


def test_a_set_without_a_photo_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is nothing usable"):
        prepared(tmp_path, [])
