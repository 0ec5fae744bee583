"""PhotoChat: the published numbers, no leak of the description, and what is said of bad files."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import logging
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

import tfds_builders
from mmjax.data.schema import SPLITS, Dialogue, Photo, Turn, to_record
from mmjax.data.sources import ListSource, open_dataset
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError, Place
from tfds_builders.photochat import photochat_dataset_builder, release
from tfds_builders.photochat.photochat_dataset_builder import Builder
from tfds_builders.photochat.statistics import categories, statistics

DUMMY = Path(tfds_builders.__file__).parent / "photochat" / "dummy_data"

# SPEC: "recomputed" on the release; people to product are the paper's Table 1.
PUBLISHED = {
    "dialogues": (10_286, 1_000, 1_000),
    "unique_images": (8_889, 1_000, 1_000),
    "people": (6_376, 606, 615),
    "food": (4_465, 424, 419),
    "animal": (1_072, 87, 90),
    "product": (884, 109, 108),
    "turns": (130_459, 12_695, 12_841),
    "merged_turns": (97_527, 9_531, 9_582),
    "tokens": (826_330, 80_151, 80_726),
    "intent_negatives": (68_757, 6_800, 6_743),
    "intent_positives": (10_286, 1_000, 1_000),
}


def message(text: str, user: int = 0, shared: bool = False) -> dict[str, Any]:
    return {"message": text, "share_photo": shared, "user_id": user}


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A made-up record in the release's form; a change to `...` leaves the field out."""
    whole = {
        "dialogue": [message("Look!"), message("At what?", 1), message("", shared=True)],
        "dialogue_id": number,
        "photo_description": "Objects in the photo: Dog, Animal",
        "photo_url": "https://example.org/1.jpg",
        "photo_id": "train/01",
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def parse(one: Any) -> Dialogue:
    return release.parse(one, "train", Place("train/train_00.json, record 0"), {})


def folder_like_the_release(folder: Path, **records: list[Any] | str) -> Path:
    """All 25 files, made up; `train=[...]` replaces the records of `train/train_00.json`."""
    for name in release.published():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]\n")
    shutil.copytree(DUMMY, folder, dirs_exist_ok=True)
    for split, content in records.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / split / f"{split}_00.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def released(shared_data, tmp_path_factory):
    folder, data = shared_data("photochat"), tmp_path_factory.mktemp("data")
    return {
        split: open_dataset("photochat", split, data_dir=data, manual_dir=folder)
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def dialogues(released) -> dict[str, list[Dialogue]]:
    return {split: list(released[split]) for split in SPLITS}


def test_the_release_has_the_published_numbers(dialogues):
    found = {split: asdict(statistics(dialogues[split])) for split in SPLITS}
    for name, numbers in PUBLISHED.items():
        assert tuple(found[split][name] for split in SPLITS) == numbers, name
    assert found["test"]["label_sets"] == 620


def test_the_release_is_named_as_such(released, shared_data):
    assert [released[split].name for split in SPLITS] == [
        f"photochat/release:{split}" for split in SPLITS
    ]
    assert release.checksums(release.local_folder(shared_data("photochat"))) == release.published()


def test_every_dialogue_of_the_release_shares_one_photo_and_says_something_before(dialogues):
    for split in SPLITS:
        for dialogue in dialogues[split]:
            (share,) = [turn for turn in dialogue.turns if turn.photos]
            assert (share.speaker, share.text, len(share.photos)) == (0, "", 1)
            before = dialogue.turns[: dialogue.turns.index(share)]
            assert any(turn.speaker == 0 and turn.text for turn in before)


def test_no_name_sentence_is_in_any_record_of_the_release(dialogues):
    for split in SPLITS:
        for dialogue in dialogues[split]:
            for turn in dialogue.turns:
                for photo in turn.photos:
                    kept = " ".join((photo.id, photo.url, *photo.labels))
                    assert "photo has your" not in kept
                    assert "Objects in" not in kept


def test_category_lists_have_the_printed_sizes():
    sizes = {name: len(labels) for name, labels in categories().items()}
    assert sizes == {"people": 6, "food": 36, "animal": 1, "product": 45}
    assert len({label for labels in categories().values() for label in labels}) == 88
    assert "Refridgerator" in categories()["product"]


def test_statistics_count_merged_turns_tokens_and_intent_examples():
    share = Turn(0, "", (Photo("p", ("Dog", "Animal")),))
    turns = (Turn(0, "a b"), Turn(0, "c"), Turn(1, "d"), share, Turn(1, "e  f"))
    found = statistics(ListSource([Dialogue("x", turns), Dialogue("y", turns[:3])]))
    assert (found.turns, found.merged_turns, found.tokens) == (7, 4, 10)
    assert (found.intent_negatives, found.intent_positives) == (1, 1)
    assert (found.dialogues, found.unique_images, found.animal, found.food) == (2, 1, 1, 0)


MARK = "Zebediah"


@pytest.mark.parametrize(
    ("description", "labels"),
    [
        (f"The photo has your uncle {MARK}. Objects in the photo: Dog, Hat", ("Dog", "Hat")),
        (f"{MARK}Objects in the photo: Dog", ("Dog",)),
        (f"The photo has your {MARK}, a friend. Objects in the photo:", ()),
        (f"The photo has your uncle {MARK}.", ()),
        (f"{MARK}", ()),
        (f"objects in the photo: {MARK}", ()),
        (f"The photo has your aunt {MARK}.\nObjects in the photo: St. bernard,  Cat ", None),
        ("", ()),
    ],
)
def test_nothing_but_the_labels_of_a_description_reaches_a_record(description, labels):
    dialogue = parse(record(photo_description=description))
    assert MARK not in json.dumps(to_record(dialogue))
    expected = ("St. bernard", "Cat") if labels is None else labels
    assert dialogue.turns[2].photos == (Photo("train/01", expected, "https://example.org/1.jpg"),)


@pytest.mark.parametrize(
    "description",
    [
        f"Objects in the photo: Dog. The photo has your uncle {MARK}.",
        f"Objects in the photo: Dog. The photo has your {MARK}. Objects in the photo: Cat",
    ],
)
def test_a_name_behind_the_labels_makes_a_bad_record(description):
    with pytest.raises(BadRecordError, match="photo_description: a sentence follows") as caught:
        parse(record(photo_description=description))
    assert MARK not in str(caught.value)


def test_a_planted_name_is_nowhere_in_the_prepared_files(tmp_path):
    description = f"The photo has your son {MARK}. Objects in the photo: Dog"
    records = [record(k, photo_description=description) for k in range(5)]
    folder = folder_like_the_release(tmp_path / "in", train=records)
    source = open_dataset("photochat", "train", data_dir=tmp_path / "d", manual_dir=folder)
    assert all(MARK not in str(source[i]) for i in range(len(source)))
    for path in (tmp_path / "d").rglob("*"):
        assert path.is_dir() or MARK.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "dialogue",
    [
        [],
        [message("no photo here")],
        [message(""), message("", 1), message("", shared=True)],
        [message(f"turn {k}", k % 2) for k in range(5_000)] + [message("", shared=True)],
        [message("\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467"), message("", 1, True)],
        [message("", shared=True), message("again", shared=True)],
    ],
)
def test_unusual_dialogues_are_valid(dialogue):
    found = parse(record(dialogue=dialogue, photo_description="Objects in the photo: "))
    assert [turn.text for turn in found.turns] == [turn["message"] for turn in dialogue]
    shared = [bool(turn.photos) for turn in found.turns]
    assert shared == [turn["share_photo"] for turn in dialogue]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", r'record 0: it should be \{\.\.\.\} and is "text"'),
        (record(dialogue=...), r"field dialogue: it is missing"),
        (record(dialogue="hi"), r'field dialogue: it should be a list and is "hi"'),
        (record(dialogue=[3]), r"field dialogue\[0\]: it should be \{\.\.\.\} and is 3"),
        (record(dialogue=[{"message": "a"}]), r"field dialogue\[0\]\.user_id: it is missing"),
        (record(dialogue=[message(5)]), r"dialogue\[0\]\.message: it should be text and is 5"),
        (record(dialogue=[message("a", 2)]), r"user_id: it should be 0 or 1 and is 2"),
        (record(dialogue=[message("a", True)]), r"user_id: it should be a whole number"),
        (
            record(dialogue=[message("a", 0, 1)]),
            r"share_photo: it should be true or false and is 1",
        ),
        (record(dialogue=[message("a" * 100_001)]), r"100,001 characters, the limit is 100,000"),
        (record(dialogue=[message("a")] * 50_001), r"field dialogue: 50,001 entries"),
        (record(photo_id=...), r"field photo_id: it is missing"),
        (record(photo_url=None), r"field photo_url: it should be text and is null"),
        (record(photo_description=["Dog"]), r"field photo_description: it should be text"),
        (
            record(photo_description="Objects in the photo: " + "a, " * 10_001),
            r"photo_description: 10,001 entries",
        ),
    ],
)
def test_a_bad_record_is_named_by_file_number_and_field(bad, message):
    with pytest.raises(BadRecordError, match=message) as caught:
        parse(bad)
    assert str(caught.value).startswith("train/train_00.json, record 0")


def test_bad_records_stop_the_preparation_unless_they_are_accepted(tmp_path):
    records = [record(0), record(1, photo_id=...), record(2), record(0)]
    folder = folder_like_the_release(tmp_path / "in", train=records)
    opened = functools.partial(
        open_dataset, "photochat", "train", data_dir=tmp_path / "d", manual_dir=folder
    )
    with pytest.raises(UserError, match=r"train_00\.json, record 1, field photo_id: .*missing"):
        opened()
    with pytest.raises(UserError, match=r"record 3, field dialogue_id: 0 was used before"):
        opened(max_bad_records=1)
    assert not list((tmp_path / "d").rglob("incomplete*"))
    assert len(opened(max_bad_records=2)) == 2
    metadata = json.loads(
        next((tmp_path / "d").glob("*/release-*/1.1.0/metadata.json")).read_text()
    )
    assert metadata["skipped_records"] == {"train": 2, "dev": 0, "test": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"dialogue": ', r"train/train_00\.json is not JSON: .* at line 1, column 15; get"),
        ("", r"train/train_00\.json is not JSON"),
        ('{"a": 1}', r"train/train_00\.json is not a list of records; get"),
        ("[" * 100_000, r"nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_list_of_records_is_named(tmp_path, content, message):
    folder = folder_like_the_release(tmp_path / "in", train=content)
    with pytest.raises(UserError, match=message):
        open_dataset("photochat", "dev", data_dir=tmp_path / "d", manual_dir=folder)


def test_a_missing_file_is_named(tmp_path):
    folder = folder_like_the_release(tmp_path / "in")
    (folder / "train" / "train_07.json").unlink()
    with pytest.raises(UserError, match=r"train_07\.json is not there \(24 of the release's 25"):
        open_dataset("photochat", "test", data_dir=tmp_path / "d", manual_dir=folder)


def test_other_content_gets_another_name_and_a_warning(tmp_path, caplog):
    folder = folder_like_the_release(tmp_path / "in")
    opened = functools.partial(
        open_dataset, "photochat", data_dir=tmp_path / "d", manual_dir=folder
    )
    with caplog.at_level(logging.WARNING):
        first = opened("test")
    assert "other content than the published release (25 of 25 files differ" in caplog.text
    assert first.name.startswith("photochat/release-")
    assert first[0].id == "test/0"
    photo = Photo("train/00000000000000a4", ("Cake", "Woman"), "https://example.org/party.jpg")
    assert first[0].turns[2] == Turn(0, "", (photo,))
    folder_like_the_release(folder, test=[record(7)])
    second = opened("test")
    assert second[0].id == "test/7"
    assert second.name != first.name
    assert second.fingerprint != first.fingerprint


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder with the release anywhere, and an address that nobody answers."""
    monkeypatch.setenv("MMJAX_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(release, "ADDRESS", "http://127.0.0.1:1/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_release_that_cannot_be_had_is_one_sentence(nowhere, tmp_path):
    with pytest.raises(UserError) as caught:
        open_dataset("photochat", "train", data_dir=tmp_path / "d")
    text = str(caught.value)
    for part in (
        str(tmp_path / "nothing" / "photochat"),
        release.ORIGINAL,
        "--config.data.manual_dir=DIR",
    ):
        assert part in text
    assert "\n" not in text


def test_the_folder_of_all_data_is_looked_at(nowhere, tmp_path):
    folder_like_the_release(tmp_path / "nothing" / "photochat")
    source = open_dataset("photochat", "dev", data_dir=tmp_path / "d")
    assert source[0].turns[2].photos[0].labels == ("Guitar", "St. bernard")


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(nowhere, tmp_path, monkeypatch):
    """The made-up files at an address on this machine, with their checksums as the published."""
    folder = folder_like_the_release(tmp_path / "server")
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        names = list(release.published())
        rows = [
            f"{address}{name}\t{(folder / name).stat().st_size}\t"
            f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\t{Path(name).name}"
            for name in names
        ]
        (tmp_path / "checksums.tsv").write_text("\n".join(rows) + "\n")
        monkeypatch.setattr(release, "ADDRESS", address)
        monkeypatch.setattr(release, "_CHECKSUMS", tmp_path / "checksums.tsv")
        infos = tfds.core.download.checksums.load_url_infos(tmp_path / "checksums.tsv")
        monkeypatch.setattr(Builder, "url_infos", infos)
        yield folder
        server.shutdown()


def test_the_release_is_downloaded_where_it_is_not_found(served, tmp_path):
    source = open_dataset("photochat", "test", data_dir=tmp_path / "d")
    assert source.name == "photochat/release:test"
    assert source[0].turns[1].text == "Loud! The cake was huge."
    shutil.rmtree(served)
    assert len(open_dataset("photochat", "train", data_dir=tmp_path / "d")) == 2


def test_a_download_with_other_content_is_refused(served, tmp_path):
    path = served / "dev" / "dev_00.json"
    path.write_text(path.read_text().replace("Nice!", "Mice!"))
    with pytest.raises(UserError, match="is not the published PhotoChat"):
        open_dataset("photochat", "test", data_dir=tmp_path / "d")
    assert not list((tmp_path / "d").glob("photochat/release/1.1.0"))


def test_a_full_disk_is_not_called_a_failed_download(served, tmp_path, monkeypatch):
    def full(address: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photochat_dataset_builder, "_reach", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        open_dataset("photochat", "test", data_dir=tmp_path / "d")
