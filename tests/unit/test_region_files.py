"""Features of photos' regions as others publish them: read, prepared, found by the photo's id."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest

from mmjax.data.perturb import perturbed
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.region_files import checked, region_files

RNG = np.random.default_rng(0)
FEATURES = {name: RNG.normal(size=(n, 5)).astype(np.float32) for name, n in (("a", 3), ("b", 1))}


def line(name, array, count=None) -> str:
    boxes = np.zeros((len(array), 4), np.float32)
    cells = [name, "640", "480", str(count or len(array)), _coded(boxes), _coded(array)]
    return "\t".join(cells) + "\n"


def _coded(array) -> str:
    return base64.b64encode(array.tobytes()).decode()


def as_tables(folder, features=FEATURES):
    folder.mkdir(exist_ok=True)
    for name, array in features.items():
        (folder / f"part_{name}.tsv").write_text(line(name, array))
    return folder


def as_archives(folder, features=FEATURES, **more):
    folder.mkdir(exist_ok=True)
    for name, array in features.items():
        np.savez(folder / f"{name}.npz", **{"x": array, **more})
    return folder


def talks(folder, photos=("a", "b", "c")):
    """A dataset of our own, a dialogue per photo."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            {
                "id": f"d{i}",
                "turns": [
                    {"speaker": 0, "text": "look"},
                    {"speaker": 0, "photos": [{"id": photo, "labels": ["Dog"]}]},
                ],
            }
            for i, photo in enumerate(photos)
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def photos_of(source):
    photos = (source[i].turns[-1].photos[0] for i in range(len(source)))
    return {photo.id: photo for photo in photos}


def open_with(tmp_path, regions, **options):
    manual = tmp_path / "talks"
    return open_dataset(
        "dialogue_folder",
        "dev",
        data_dir=tmp_path / "data",
        manual_dir=str(manual if manual.exists() else talks(manual)),
        regions=str(regions),
        **options,
    )


@pytest.mark.parametrize("published", [as_tables, as_archives])
def test_each_photo_has_the_features_that_were_published(tmp_path, published):
    source = open_with(tmp_path, published(tmp_path / "features"))
    photos = photos_of(source)
    for photo in (photos["a"], photos["b"]):
        np.testing.assert_array_equal(photo.regions.read(), FEATURES[photo.id])
        again = pickle.loads(pickle.dumps(photo.regions))
        np.testing.assert_array_equal(again.read(), FEATURES[photo.id])
    assert photos["c"].regions is None
    assert photos["a"].regions.digest != photos["b"].regions.digest


def test_other_features_make_another_source(tmp_path):
    one = open_with(tmp_path, as_archives(tmp_path / "one"))
    other = {**FEATURES, "a": FEATURES["a"] + 1}
    two = open_with(tmp_path, as_archives(tmp_path / "two", other))
    assert one.fingerprint != two.fingerprint


def test_shuffled_regions_are_those_of_other_photos_and_blank_ones_say_nothing(tmp_path):
    source = open_with(tmp_path, as_archives(tmp_path / "features"))
    shuffled = photos_of(perturbed(source, "images_shuffled"))
    np.testing.assert_array_equal(shuffled["a"].regions.read(), FEATURES["b"])
    blank = photos_of(perturbed(source, "images_blanked"))
    assert not blank["a"].regions.read().any()


def test_half_precision_stays_and_double_precision_does_not(tmp_path):
    assert checked(np.ones((2, 3), np.float16), "here").dtype == np.float16
    assert checked(np.ones((2, 3), np.float64), "here").dtype == np.float32


def test_ids_of_another_kind_are_noticed_at_once_with_both(tmp_path):
    folder = as_archives(tmp_path / "features", {"000a": FEATURES["a"]})
    with pytest.raises(UserError, match=r"such as '000a', the dataset's such as '[abc]'"):
        open_with(tmp_path, folder)


NAN = np.array([[1, np.nan]], np.float32)
BAD = {
    "NaN": (lambda folder: as_archives(folder, {**FEATURES, "c": NAN}), "c.npz.*NaN or inf"),
    "no such array": (
        lambda folder: _other(as_archives(folder), y=FEATURES["a"]),
        "has no array 'x' or 'features'",
    ),
    "not an archive": (
        lambda folder: (as_archives(folder) / "c.npz").write_bytes(b"PK nothing"),
        r"c\.npz cannot be read",
    ),
    "a pickle": (
        lambda folder: _other(as_archives(folder), x=np.array([[{}]], object)),
        r"c\.npz: its numbers are object, not floats",
    ),
    "an array that is no archive": (
        lambda folder: _packed(as_archives(folder), lambda data: _npy((3, 5))),
        r"c\.npz cannot be read: File is not a zip file",
    ),
    "damaged where it is compressed": (
        lambda folder: _packed(as_archives(folder), _damaged),
        r"c\.npz cannot be read: Error -3 while decompressing",
    ),
    "more regions than there is memory for": (
        lambda folder: _member(as_archives(folder), _npy((10**12, 10))),
        r"c\.npz: its shape is \(1000000000000, 10\)",
    ),
    "regions wider than there is memory for": (
        lambda folder: _member(as_archives(folder), _npy((1, 10**13))),
        r"c\.npz: a region has 10000000000000 numbers, the limit",
    ),
    "fewer bytes than its shape": (
        lambda folder: _member(as_archives(folder), _npy((3, 5))),
        r"c\.npz cannot be read: EOF",
    ),
    "a header that does not end": (
        lambda folder: _member(as_archives(folder), b"\x93NUMPY\x01\x00\x04\x00{'a("),
        r"c\.npz cannot be read",
    ),
    "named columns": (
        lambda folder: _member(as_archives(folder), b"\x93NUMPY\x03\x00"),
        r"c\.npz: its array is a table with named columns",
    ),
    "an archive that unpacks to gigabytes": (
        lambda folder: _packed(as_archives(folder), _blown_up),
        r"c\.npz: its array has 4,026,531,840 bytes, the limit is",
    ),
    "encrypted": (
        lambda folder: _packed(as_archives(folder), _encrypted),
        r"c\.npz cannot be read: .* is encrypted",
    ),
    "in the folders of two splits": (
        lambda folder: _in_two_splits(folder, "train2014", "val2014"),
        r"val2014/a\.npz: photo a comes twice",
    ),
    "too large for float32": (
        lambda folder: _other(as_archives(folder), x=np.array([[1e300]])),
        r"c\.npz: it holds NaN or infinity",
    ),
    "one dimension": (
        lambda folder: as_archives(folder, {**FEATURES, "c": FEATURES["a"][0]}),
        r"shape is \(5,\)",
    ),
    "no region": (
        lambda folder: as_archives(folder, {**FEATURES, "c": FEATURES["a"][:0]}),
        r"shape is \(0, 5\)",
    ),
    "too wide": (
        lambda folder: as_archives(folder, {**FEATURES, "c": np.zeros((1, 20_000), np.float32)}),
        "20000 numbers, the limit",
    ),
    "words": (
        lambda folder: as_archives(folder, {**FEATURES, "c": np.array([["word"]])}),
        "not floats",
    ),
    "another count": (
        lambda folder: (as_tables(folder) / "c.tsv").write_text(line("c", FEATURES["a"], 2)),
        r"c\.tsv, line 1: 15 numbers are not 2 regions",
    ),
    "a count without numbers": (
        lambda folder: (as_tables(folder) / "c.tsv").write_text(f"c\t1\t1\t1{'0' * 30}\tAAAA\t\n"),
        r"c\.tsv, line 1: 0 numbers are not 10+ regions",
    ),
    "no base64": (
        lambda folder: (as_tables(folder) / "c.tsv").write_text("c\t1\t1\t1\tAAAA\t!!!\n"),
        r"c\.tsv, line 1",
    ),
    "a column too few": (
        lambda folder: (as_tables(folder) / "c.tsv").write_text("c\t1\t1\t1\tAAAA\n"),
        "has not the columns image_id",
    ),
    "twice": (
        lambda folder: (as_tables(folder) / "c.tsv").write_text(line("a", FEATURES["a"])),
        "photo a comes twice",
    ),
}  # fmt: skip


def _other(folder, **arrays):
    np.savez(folder / "c.npz", **arrays)


def _packed(folder, change):
    """`change`: bytes of a good compressed archive -> those of a bad one."""
    good = io.BytesIO()
    np.savez_compressed(good, x=FEATURES["a"])
    (folder / "c.npz").write_bytes(change(good.getvalue()))


def _member(folder, data):
    with zipfile.ZipFile(folder / "c.npz", "w") as archive:
        archive.writestr("x.npy", data)


def _npy(shape):
    """The header of float32 numbers, and none of them."""
    data = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(data, header)
    return data.getvalue()


# Zip's headers: PKWARE's APPNOTE 4.3.7 (of a member) and 4.3.12 (in the central directory).


def _damaged(data):
    at = 30 + sum(struct.unpack_from("<HH", data, 26))  # behind the header, the name, the extras
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


def _blown_up(data):
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", 0xF000_0000) + data[at + 4 :]


def _encrypted(data):
    for at in (6, data.index(b"PK\x01\x02") + 8):
        data = data[:at] + bytes([data[at] | 1]) + data[at + 1 :]
    return data


def _in_two_splits(folder, one, other):
    folder.mkdir()
    as_archives(folder / one)
    as_archives(folder / other, {"a": FEATURES["b"]})


@pytest.mark.parametrize("kind", BAD)
def test_features_that_cannot_be_used_are_named_and_the_others_are_there(tmp_path, kind):
    make, message = BAD[kind]
    make(tmp_path / "features")
    items = list(region_files(str(tmp_path / "features")).read(None))
    (bad,) = (item for _, item in items if isinstance(item, BadRecordError))
    assert re.search(message, str(bad))
    good = {name: item for name, item in items if not isinstance(item, BadRecordError)}
    np.testing.assert_equal(good, FEATURES)


def test_photos_in_a_folder_per_split_are_found_and_one_in_two_of_them_is_refused(tmp_path):
    folder = tmp_path / "features"
    _in_two_splits(folder, "train2014", "val2014")
    with pytest.raises(UserError, match="photo a comes twice; correct it"):
        open_with(tmp_path, folder)
    (folder / "val2014" / "a.npz").rename(folder / "val2014" / "c.npz")
    photos = photos_of(open_with(tmp_path, folder))
    np.testing.assert_array_equal(photos["c"].regions.read(), FEATURES["b"])


def test_features_that_cannot_be_used_are_left_out_where_that_is_asked(tmp_path):
    as_archives(tmp_path / "features", {**FEATURES, "c": NAN})
    with pytest.raises(UserError, match="NaN or infinity; correct it, or let"):
        open_with(tmp_path, tmp_path / "features")
    source = open_with(tmp_path, tmp_path / "features", max_bad_records=1)
    assert set(source.regions) == {"a", "b"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "neither"),
        (lambda folder: as_tables(as_archives(folder)), "both"),
    ],
)
def test_a_place_without_features_is_named(tmp_path, make, message):
    make(tmp_path / "features")
    with pytest.raises(UserError, match=message):
        region_files(str(tmp_path / "features"))
