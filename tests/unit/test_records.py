"""Records are decoded as TFDS decodes them, whatever is in them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mmjax.data.records import Records
from mmjax.data.schema import from_record
from mmjax.data.sources import open_dataset
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.dialogue_folder.dialogue_folder_dataset_builder import Builder

DIALOGUES = [
    {"id": "none", "turns": []},
    {"id": "one", "turns": [{"speaker": 0, "text": "hello"}]},
    {"id": "empty", "turns": [{"speaker": 1, "text": ""}, {"speaker": 0, "photos": []}]},
    {
        "id": "photos 🐕",
        "turns": [
            {"speaker": 0, "photos": [{"id": "a"}, {"id": "b", "labels": ["Dog", "", "Kočka"]}]},
            {"speaker": 1, "text": "多谢 \x00 \u2028"},
            {"speaker": 0, "photos": [{"id": "c", "labels": ["Tree"], "url": "http://x"}]},
        ],
    },
    {"id": "labels none", "turns": [{"speaker": 0, "photos": [{"id": "d"}, {"id": "e"}]}]},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(folder of the prepared records, the folder that they were made from, data_dir)."""
    root = tmp_path_factory.mktemp("records")
    lines = "".join(json.dumps(d) + "\n" for d in DIALOGUES)
    (root / "train.jsonl").write_text(lines)
    open_dataset("dialogue_folder", "train", data_dir=root / "data", manual_dir=root)
    return Builder(data_dir=str(root / "data"), manual_dir=root).data_path


def plain(value):
    """Arrays, lists and numbers alike."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def test_a_record_is_what_tfds_makes_of_it(prepared):
    theirs = tfds.builder_from_directory(prepared).as_data_source("train")
    ours = Records(prepared, "train")
    assert len(ours) == len(theirs) == len(DIALOGUES)
    for i in range(len(ours)):
        assert plain(ours[i]) == plain(theirs[i])


def test_dialogues_come_back_as_they_were_written(prepared):
    records = Records(prepared, "train")
    found = {d.id: d for d in (from_record(records[i]) for i in range(len(records)))}
    for number, written in enumerate(DIALOGUES):
        wanted = jsonl.parse(written, number, jsonl.Place("x"), {})
        assert found[written["id"]] == wanted


def test_numbers_beyond_the_end_are_an_error_and_negative_ones_count_from_it(prepared):
    records = Records(prepared, "train")
    assert records[-1]["id"] == records[len(records) - 1]["id"]
    for i in (len(records), -len(records) - 1):
        with pytest.raises(IndexError, match="out of range"):
            records[i]
