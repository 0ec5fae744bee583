"""Features of photos' regions as others publish them: read, prepared, found by the photo's id."""

from __future__ import annotations

import base64
import json
import pickle
import re

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
        lambda folder: _other(as_archives(folder), x=np.array([{}], object)),
        r"c\.npz cannot be read: Object arrays cannot be loaded",
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


@pytest.mark.parametrize("kind", BAD)
def test_features_that_cannot_be_used_are_named_and_the_others_are_there(tmp_path, kind):
    make, message = BAD[kind]
    make(tmp_path / "features")
    items = list(region_files(str(tmp_path / "features")).read(None))
    (bad,) = (item for _, item in items if isinstance(item, BadRecordError))
    assert re.search(message, str(bad))
    good = {name: item for name, item in items if not isinstance(item, BadRecordError)}
    np.testing.assert_equal(good, FEATURES)


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
