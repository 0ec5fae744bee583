"""MSCOCO captions as TFDS has prepared them: splits, captions, boxes, photos."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mmjax.data.sources import open_dataset
from mmjax.errors import UserError

NAMES = ["person", "cat", "kite"]
# split -> photos: (MSCOCO's number, captions, objects (label, top, left, bottom, right, crowd))
PHOTOS = {
    "train": [
        (
            391895,
            ["A man flies a kite. ", "A kite."],
            [
                ("person", 0.5, 0.25, 0.75, 0.375, False),
                ("kite", 0.0, 0.0, 0.5, 1.0, False),
                ("person", 0.5, 0.25, 1.0, 0.5, False),
                ("cat", 0.0, 0.0, 1.0, 1.0, True),
                ("cat", 0.5, 0.25, 0.5, 0.75, False),
            ],
        ),
        (7, ["Nothing to see."], []),
    ],
    "restval": [(8, ["A cat."], [("cat", 0.0, 0.0, 1.0, 1.0, False)])],
    "val": [(9, ["Another cat."], [("cat", 0.1, 0.1, 0.9, 0.9, False)])],
    "test": [(10, ["The last cat.", "  "], [("cat", 0.1, 0.1, 0.9, 0.9, False)])],
}


def pixels(number: int) -> np.ndarray:
    return np.full((8, 12, 3), number % 251, np.uint8)


class CocoCaptions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features of TFDS' own builder, of photos that are made up."""

    name = "coco_captions"
    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014")]  # noqa: RUF012 - TFDS wants a list
    missing: str | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return self.dataset_info_from_configs(
            features=features.FeaturesDict(
                {
                    "image": features.Image(encoding_format="jpeg"),
                    "image/filename": features.Text(),
                    "image/id": np.int64,
                    "objects": features.Sequence(
                        {
                            "id": np.int64,
                            "area": np.int64,
                            "bbox": features.BBoxFeature(),
                            "label": features.ClassLabel(names=NAMES),
                            "is_crowd": np.bool_,
                        }
                    ),
                    "captions": features.Sequence({"id": np.int64, "text": features.Text()}),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in PHOTOS if split != self.missing}

    def _generate_examples(self, split):
        for number, captions, objects in PHOTOS[split]:
            yield (
                number,
                {
                    "image": pixels(number),
                    "image/filename": f"COCO_{number:012}.jpg",
                    "image/id": number,
                    "objects": [
                        {
                            "id": k,
                            "area": 1,
                            "bbox": tfds.features.BBox(*box),
                            "label": label,
                            "is_crowd": crowd,
                        }
                        for k, (label, *box, crowd) in enumerate(objects)
                    ],
                    "captions": [{"id": k, "text": text} for k, text in enumerate(captions)],
                },
            )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder in which TFDS has prepared the dataset."""
    folder = tmp_path_factory.mktemp("tfds")
    CocoCaptions(data_dir=folder, config="2014").download_and_prepare()
    return folder


def opened(theirs, tmp_path, split="train", name="coco_captions", **options):
    return open_dataset(name, split, data_dir=tmp_path / "data", manual_dir=str(theirs), **options)


def test_every_caption_is_said_and_then_the_photo_is_shared(theirs, tmp_path):
    source = opened(theirs, tmp_path)
    found = {source[i].id: source[i] for i in range(len(source))}
    assert sorted(found) == ["391895#0", "391895#1", "7#0"]
    said, shared = found["391895#0"].turns
    assert (said.text, said.photos, shared.text) == ("A man flies a kite.", (), "")
    assert shared.photos[0].id == "391895"


def test_labels_are_those_of_the_objects_the_largest_first_without_crowds(theirs, tmp_path):
    source = opened(theirs, tmp_path)
    photos = {
        d.turns[1].photos[0].id: d.turns[1].photos[0] for d in map(source.__getitem__, (0, 1, 2))
    }
    assert photos["391895"].labels == ("kite", "person", "cat")
    assert photos["7"].labels == ()
    first = photos["391895"].boxes[0]
    assert (first.label, first.x, first.y, first.width, first.height) == ("kite", 0, 0, 1, 0.5)
    sizes = [(box.width, box.height) for box in photos["391895"].boxes]
    assert sizes == [(1, 0.5), (0.25, 0.5), (0.125, 0.25)]  # the cat's is a line


@pytest.mark.parametrize(
    ("name", "split", "want"),
    [
        ("coco_captions", "dev", ["9#0"]),
        ("coco_captions", "test", ["10#0"]),
        ("coco_captions/restval", "train", ["391895#0", "391895#1", "7#0", "8#0"]),
    ],
)
def test_splits_are_those_of_karpathy_and_li(theirs, tmp_path, name, split, want):
    source = opened(theirs, tmp_path, split, name)
    assert sorted(source[i].id for i in range(len(source))) == want


def test_photos_are_theirs_byte_for_byte_decoded(theirs, tmp_path):
    source = opened(theirs, tmp_path, photos=True)
    assert sorted(source.photos) == ["10", "391895", "7", "8", "9"]
    photo = next(d.turns[1].photos[0] for d in map(source.__getitem__, range(3)))
    found = np.asarray(Image.open(io.BytesIO(photo.file.read())))
    assert np.abs(found.astype(int) - pixels(int(photo.id))).max() <= 2


def test_a_place_where_nothing_is_prepared_is_told_how_to_prepare_it(tmp_path):
    with pytest.raises(UserError, match=r"no coco_captions/2014 prepared in .*download_and_prep"):
        opened(tmp_path, tmp_path)


def test_a_prepared_set_without_one_of_the_splits_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(CocoCaptions, "missing", "restval")
    CocoCaptions(data_dir=tmp_path / "theirs", config="2014").download_and_prepare()
    with pytest.raises(UserError, match="no split 'restval'"):
        opened(tmp_path / "theirs", tmp_path)
