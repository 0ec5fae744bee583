"""Sources: named by content, read without TensorFlow, prepared whole or not at all."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import mmjax
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource, Source, TfdsSource, open_dataset
from mmjax.errors import UserError
from tfds_builders.photochat import demo_dialogues
from tfds_builders.photochat.photochat_dataset_builder import Builder

ROOT = Path(mmjax.__file__).parents[1]


def python(code: str, *args: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("TF_")},
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    open_dataset("photochat/demo", "train", data_dir=folder)
    return folder


def demo(data_dir: Path, split: str = "test") -> TfdsSource:
    return open_dataset("photochat/demo", split, data_dir=data_dir)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_prepared_source_holds_what_the_builder_wrote(data_dir, split):
    source = demo(data_dir, split)
    written = dict(demo_dialogues.read(None, split))
    assert isinstance(source, Source)
    assert source.name == f"photochat/demo:{split}"
    assert {dialogue.id: dialogue for dialogue in source} == written
    assert len(source) == len(written)


def test_indices_are_those_of_a_sequence(data_dir):
    source = demo(data_dir)
    assert source[-1] == source[len(source) - 1]
    for index in (len(source), -len(source) - 1):
        with pytest.raises(IndexError):
            source[index]


def test_the_same_content_has_the_same_fingerprint_and_order_elsewhere(data_dir, tmp_path):
    here, there = demo(data_dir), demo(tmp_path)
    assert here.fingerprint == there.fingerprint
    assert list(here) == list(there)
    assert len({demo(data_dir, split).fingerprint for split in ("train", "dev", "test")}) == 3


def test_a_source_travels_to_another_process(data_dir):
    source = demo(data_dir)
    first = source[0]
    sent = pickle.dumps(source)
    assert len(sent) < 2_000
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1]))[0].id)"
    output, errors = python(code, sent.hex()).communicate()
    assert output.strip() == first.id, errors


def test_reading_needs_no_tensorflow(data_dir):
    code = """if True:
        import sys
        from mmjax.data.sources import open_dataset
        assert "tensorflow_datasets" not in sys.modules
        source = open_dataset("photochat/demo", "test", data_dir=sys.argv[1])
        print(len(source), source[3].id, "tensorflow" in sys.modules)
    """
    output, errors = python(code, data_dir).communicate()
    assert output.split() == ["240", demo(data_dir)[3].id, "False"], errors


def test_the_fingerprint_of_a_list_follows_its_content():
    share = Turn(0, "", (Photo("p", ("Dog",)),))
    dialogue = Dialogue("a", (Turn(1, "hi"), share))
    same = Dialogue("a", (Turn(1, "hi"), Turn(0, "", (Photo("p", ("Dog",)),))))
    fingerprint = ListSource([dialogue]).fingerprint
    assert ListSource([same]).fingerprint == fingerprint
    for other in (
        [],
        [dialogue, dialogue],
        [Dialogue("b", dialogue.turns)],
        [Dialogue("a", (Turn(0, "hi"), share))],
        [Dialogue("a", (Turn(1, "hi"), Turn(0, "", (Photo("p", ("Cat",)),))))],
    ):
        assert ListSource(other).fingerprint != fingerprint
    source = ListSource([dialogue], name="mine:test")
    assert isinstance(source, Source)
    assert (source.name, len(source), source[0]) == ("mine:test", 1, dialogue)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("photochats", "train", r"Unknown dataset: 'photochats'; .* did you mean 'photochat'\?"),
        ("zzz", "train", r"there are photochat, dialogue_folder, photo_folder, .*: choose one"),
        ("photochat/dem", "train", r"Unknown config of photochat: 'dem'; .*did you mean 'demo'\?"),
        ("dialogue_folder/x", "train", r"Unknown config of dialogue_folder: 'x'; there is none"),
        ("photochat/demo", "tset", r"Unknown split: 'tset'; .*did you mean 'test'\?"),
        ("photochat/demo", "validation", r"there are train, dev, test: choose one"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path, name, split, message):
    with pytest.raises(UserError, match=message):
        open_dataset(name, split, data_dir=tmp_path)


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_a_dataset(data_dir, tmp_path):
    code = """if True:
        import os, signal, sys
        from mmjax.data import sources
        from tfds_builders.photochat import demo_dialogues
        whole = demo_dialogues.read
        def read(content, split):
            for number, (key, dialogue) in enumerate(whole(content, split)):
                if (split, number) == ("dev", 50):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield key, dialogue
        demo_dialogues.read = read
        sources.open_dataset("photochat/demo", "train", data_dir=sys.argv[1])
    """
    killed = python(code, tmp_path)
    killed.communicate()
    assert killed.returncode == -9
    folder = tmp_path / "photochat" / "demo"
    assert [path.name.split(".")[0] for path in folder.glob("[!.]*")] == ["incomplete"]
    assert demo(tmp_path).fingerprint == demo(data_dir).fingerprint
    assert [path.name for path in folder.glob("[!.]*")] == ["1.1.0"]


def test_processes_that_prepare_at_once_end_with_one_whole_dataset(data_dir, tmp_path):
    code = """if True:
        import sys
        from mmjax.data.sources import open_dataset
        print(open_dataset("photochat/demo", "test", data_dir=sys.argv[1]).fingerprint)
    """
    processes = [python(code, tmp_path) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    expected = demo(data_dir).fingerprint
    assert [output.strip() for output, _ in outputs] == [expected] * 2, outputs
    assert sorted(errors.count("3/3") for _, errors in outputs) == [0, 1]
    for _, errors in outputs:
        # Progress is shown; what the libraries say of themselves is not.
        assert "deprecated" not in errors
        assert "oneDNN" not in errors
    assert [p.name for p in (tmp_path / "photochat" / "demo").glob("[!.]*")] == ["1.1.0"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("write() failed: No space left on device; at byte 192512"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(Builder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=r"cannot be written \((No space|Permission).*data_dir=DIR"):
        demo(tmp_path)


def test_another_error_of_the_writer_stays_what_it_is(tmp_path, monkeypatch):
    def fail(self, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Builder, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        demo(tmp_path)


def test_a_file_in_place_of_the_data_folder_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        demo(tmp_path / "data")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no description", "empty"])
def test_damaged_data_are_noticed_and_can_be_made_again(data_dir, tmp_path, damage):
    folder = tmp_path / "photochat" / "demo" / "1.1.0"
    folder.mkdir(parents=True)
    for path in (data_dir / "photochat" / "demo" / "1.1.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = next(folder.glob("photochat-test*"))
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(content[:-70_000])
    elif damage == "flipped":
        content[66_000] ^= 255
        shard.write_bytes(content)
    elif damage == "missing":
        shard.unlink()
    elif damage == "no description":
        (folder / "dataset_info.json").write_text("{")
    else:
        for path in folder.iterdir():
            path.unlink()
    with pytest.raises(UserError, match=r"1\.1\.0 are damaged .*delete that folder"):
        list(demo(tmp_path))


def test_data_prepared_from_other_content_are_refused(data_dir, monkeypatch):
    monkeypatch.setattr(demo_dialogues, "DIGEST", "0" * 64)
    with pytest.raises(UserError, match="was prepared from other content"):
        demo(data_dir)
