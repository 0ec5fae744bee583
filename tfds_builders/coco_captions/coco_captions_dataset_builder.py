"""The builder of "coco_captions": MSCOCO 2014 with captions, from what TFDS has prepared.

TFDS' `coco_captions` has the splits of Karpathy and Li (2015): train, restval (the rest of MSCOCO's
validation photos, which many train on too), val and test. It is some 20 GB, so it is read where it
is and not downloaded here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from mmjax.data.schema import Box, Dialogue, Photo, Turn
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder
from tfds_builders.checks import BadRecordError
from tfds_builders.origin import Origin, PhotoOrigin

NAME = "coco_captions/2014"
RESTVAL = "restval"
# Theirs, for each of ours.
SPLITS = {"train": ("train",), "dev": ("val",), "test": ("test",)}


class Builder(DialogueBuilder):
    """Every caption is a dialogue: it is said, and then the photo is shared."""

    VERSION = tfds.core.Version("1.0.1")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.1": "No boxes without area."}
    CONFIGS = (RESTVAL,)

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        prepared = _prepared(manual_dir)
        splits = dict(SPLITS)
        if config == RESTVAL:
            splits["train"] = (*splits["train"], RESTVAL)
        digest = _digest(prepared)
        name = f"{config}-{digest[:16]}" if config else digest[:16]

        def read(_: Any, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
            for theirs in splits[split]:
                for record in _records(prepared, theirs):
                    for dialogue in dialogues(record, prepared.info.features):
                        yield dialogue.id, dialogue

        return Origin(name, digest, read, tuple(splits))

    def photos(self) -> PhotoOrigin:
        prepared = _prepared(self.manual_dir)
        names = sorted({theirs for group in SPLITS.values() for theirs in group} | {RESTVAL})

        def read(_: epath.Path) -> Iterator[tuple[str, bytes | BadRecordError]]:
            for split in names:
                for record in _records(prepared, split):
                    yield _id(record), record["image"]

        return PhotoOrigin("2014", _digest(prepared), read)


def dialogues(record: Mapping[str, Any], features: Mapping[str, Any]) -> list[Dialogue]:
    """The dialogues of one photo, as TFDS has it.

    The labels are the categories of its objects, those with the largest one first, each once;
    crowds are left out, as nobody would say that the photo shows one of them.
    """
    objects, names = record["objects"], features["objects"]["label"]
    boxes = [
        Box(names.int2str(int(label)), *_corner_and_size(box))
        for label, box, crowd in zip(
            objects["label"], objects["bbox"], objects["is_crowd"], strict=True
        )
        if not crowd
    ]
    boxes.sort(key=lambda box: -box.width * box.height)
    labels = tuple(dict.fromkeys(box.label for box in boxes))
    # A few of MSCOCO's are lines: they name what is there, and show nothing of it.
    areas = tuple(box for box in boxes if box.width > 0 and box.height > 0)
    photo = Photo(_id(record), labels, boxes=areas)
    share = Turn(0, "", (photo,))
    captions = [text.decode().strip() for text in record["captions"]["text"]]
    return [
        Dialogue(f"{photo.id}#{k}", (Turn(0, caption), share))
        for k, caption in enumerate(filter(None, captions))
    ]


def _id(record: Mapping[str, Any]) -> str:
    """MSCOCO's own number, by which published features of its photos go."""
    return str(int(record["image/id"]))


def _corner_and_size(box: Any) -> tuple[float, float, float, float]:
    """TFDS has top, left, bottom and right, as fractions."""
    top, left, bottom, right = (min(max(float(x), 0.0), 1.0) for x in box)
    return left, top, right - left, bottom - top


def _records(prepared: Any, split: str) -> Iterator[Mapping[str, Any]]:
    """The records of one of their splits, photos encoded. Imports TensorFlow."""
    # In their order: what is prepared twice must be the same.
    reading = tfds.ReadConfig(shuffle_seed=None, interleave_cycle_length=1, try_autocache=False)
    decoders = {"image": tfds.decode.SkipDecoding()}
    records = prepared.as_dataset(
        split=split, shuffle_files=False, decoders=decoders, read_config=reading
    )
    return iter(tfds.as_numpy(records))


def _prepared(manual_dir: Any) -> Any:
    """TFDS' builder of what is prepared. Raises UserError where nothing is."""
    place = manual_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = epath.Path(place).expanduser() / NAME
    versions = sorted(folder.glob("*/dataset_info.json")) if folder.exists() else []
    if not versions:
        raise UserError(
            f"there is no {NAME} prepared in {place}: prepare it with TFDS (python -c 'import "
            'tensorflow_datasets as tfds; tfds.builder("coco_captions").download_and_prepare()\'), '
            "or name the folder where it is with --config.data.manual_dir=DIR."
        )
    found = tfds.builder_from_directory(versions[-1].parent)
    needed = {theirs for group in SPLITS.values() for theirs in group} | {RESTVAL}
    if missing := sorted(needed - set(found.info.splits)):
        raise UserError(f"{versions[-1].parent} has no split {missing[0]!r}: prepare it again.")
    return found


def _digest(prepared: Any) -> str:
    """Of what TFDS knows of the content: it has checked the files when it prepared them."""
    splits = {
        name: [list(split.shard_lengths), split.num_bytes]
        for name, split in prepared.info.splits.items()
    }
    about = json.dumps([prepared.info.full_name, splits], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()
