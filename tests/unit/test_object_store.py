"""What a run leaves, in a store without folders, rename and append, that fails now and then."""

from __future__ import annotations

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from tensorflow_datasets.core import DatasetBuilder

from mmjax.artifacts import (
    artifact_folder,
    check_artifact,
    parent,
    read_artifact,
    write_artifact,
)
from mmjax.checkpoint.store import CheckpointStore
from mmjax.data import mirror
from mmjax.data.sources import open_dataset
from mmjax.errors import EXIT_LOST, EXIT_USER_ERROR, OutageError, UserError
from mmjax.export import write_export
from mmjax.observe.metrics_log import MetricsLog, read_metrics
from mmjax.pretrained.exported import ModelFolder
from mmjax.results import read_results
from mmjax.workdir import WorkDir
from tests.object_store import BUCKET, installed


@pytest.fixture
def store(tmp_path):
    with installed(tmp_path / "store") as store:
        yield store


BUSY = tf.errors.UnavailableError(None, None, "HTTP response code 503, after 10 attempts\nmore")
NO_RIGHT = tf.errors.PermissionDeniedError(None, None, "HTTP response code 403")


def refuse(operation, part, error=BUSY):
    """The store refuses this operation on objects with `part` in their names, as TensorFlow does.

    Args:
      operation: None: whatever it is.
    """

    def before(asked, name):
        if operation in (asked, None) and part in name:
            raise error

    return before


def test_a_working_directory_is_claimed_locked_and_counts_its_looks(store):
    workdir = WorkDir(f"{BUCKET}/runs/a")
    with workdir.locked():
        assert "runs/a/.lease" in store.objects()
        workdir.claim({"x": 1}, {"model.dim": 8})
        assert workdir.check({"model.dim": 8})
        with pytest.raises(UserError, match=r"model.dim was 8, is 9"):
            workdir.check({"model.dim": 9})
        assert [workdir.look_at_test("why") for _ in range(2)] == [1, 2]
        assert WorkDir(f"{BUCKET}/runs/a").looks() == 2
    assert sorted(store.objects()) == [
        "runs/a/config.json",
        "runs/a/test_looks/0000.json",
        "runs/a/test_looks/0001.json",
    ]
    assert not WorkDir(f"{BUCKET}/runs/b").check({})


def test_metrics_go_on_without_append(store):
    folder = f"{BUCKET}/runs/a/metrics"
    first = MetricsLog(folder, 0)
    first.write(1, {"train/loss": 1.5}, {})
    first.close_part()
    first.write(2, {"train/loss": 2.5}, {})
    MetricsLog(folder, 1).write(2, {"train/loss": 3.5}, {})
    assert [line["values"]["train/loss"] for line in read_metrics(folder)] == [1.5, 3.5]
    store.before = refuse("put", "metrics/")
    told = "cannot write metrics in gs://bucket/runs/a/metrics"
    with pytest.raises(OutageError, match=told):
        MetricsLog(folder, 2)
    store.before = refuse("list", "metrics")
    with pytest.raises(OutageError, match=rf"{told} \(HTTP response code 503, after 10 attempts\)"):
        MetricsLog(folder, 2)


def tree_of(seed: int) -> dict:
    key = jax.random.key(seed)
    return {"kernel": jax.random.normal(key, (3, 5)), "half": jnp.full(4, seed, jnp.bfloat16)}


def target_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def test_checkpoints_are_whole_or_do_not_count(store):
    folder = f"{BUCKET}/runs/a/checkpoints"
    checkpoints = CheckpointStore(folder)
    for step in (1, 2, 3):
        checkpoints.save(step, tree_of(step), {"step": step}, keep=2)
    checkpoints.wait()
    again = CheckpointStore(folder)
    assert again.latest() == 3
    assert [host["step"] for host in again.hosts()] == [2, 3]
    tree, host = again.restore(3, target_of(tree_of(3)))
    jax.tree.map(np.testing.assert_array_equal, tree, tree_of(3))
    assert host == {"step": 3}

    store.before = refuse("put", "manifest.json")
    checkpoints.save(4, tree_of(4), {}, keep=2)
    with pytest.raises(OutageError, match=r"checkpoint 4 could not be saved in gs://bucket/runs/a"):
        checkpoints.wait()
    store.before = lambda operation, name: None
    assert CheckpointStore(folder).latest() == 3
    lost = next(name for name in store.objects() if "/3/arrays/d/" in name)
    store.remove(f"{BUCKET}/{lost}")
    assert CheckpointStore(folder).latest() == 2
    # A removal that is cut short leaves nothing that counts.
    store.before = refuse("delete", "2/arrays")
    checkpoints.save(5, tree_of(5), {}, keep=1)
    with pytest.raises(OutageError, match=r"checkpoint 5 .* \(HTTP response code 503"):
        checkpoints.wait()
    store.before = lambda operation, name: None
    assert CheckpointStore(folder).latest() == 5
    checkpoints.close()


@pytest.mark.parametrize("operation", ["list", "get", "stat"])
def test_checkpoints_that_cannot_be_read_for_now_are_not_taken_for_broken(store, operation):
    folder = f"{BUCKET}/runs/a/checkpoints"
    checkpoints = CheckpointStore(folder)
    checkpoints.save(1, tree_of(1), {"step": 1}, keep=1)
    checkpoints.wait()
    store.before = refuse(operation, "checkpoints")
    again = CheckpointStore(folder)
    for read in (again.latest, again.hosts, lambda: again.restore(1, target_of(tree_of(1)))):
        if (operation, read) == ("stat", again.hosts):
            continue  # which needs no sizes
        with pytest.raises(OutageError, match=r"checkpoints\S* cannot be read \(HTTP") as error:
            read()
        assert error.value.exit_code == EXIT_LOST
    store.before = refuse("list", "checkpoints", NO_RIGHT)
    with pytest.raises(UserError, match=r"cannot be read \(.*403") as error:
        again.latest()
    assert error.value.exit_code == EXIT_USER_ERROR


@pytest.mark.parametrize(
    ("error", "code"), [(BUSY, EXIT_LOST), (NO_RIGHT, EXIT_USER_ERROR)], ids=["503", "403"]
)
def test_whatever_the_store_refuses_of_a_working_directory_is_a_sentence(store, error, code):
    workdir = WorkDir(f"{BUCKET}/runs/a")
    workdir.claim({"x": 1}, {"model.dim": 8})
    store.before = refuse(None, "runs/a", error)
    for use in (
        lambda: workdir.check({}),
        lambda: workdir.claim({}, {}),
        workdir.check_shared,
        lambda: workdir.look_at_test("why"),
        workdir.looks,
        lambda: check_artifact(workdir.path / "artifact"),
        lambda: parent("weights", str(workdir.path)),
        lambda: write_artifact(
            workdir.path / "artifact", {}, config={}, preprocessing=workdir.path, parents=[]
        ),
        lambda: write_export(workdir.path / "export", [], {}),
    ):
        with pytest.raises(UserError, match=r"gs://bucket/runs/a.*\(.*HTTP response code") as told:
            use()
        assert told.value.exit_code == code
    assert workdir.figures("dev") == {}
    store.before = lambda operation, name: None
    assert workdir.check({"model.dim": 8})  # nothing was lost


def test_a_save_that_takes_long_counts_when_it_is_done(store):
    folder, slow = f"{BUCKET}/runs/a/checkpoints", threading.Event()
    checkpoints = CheckpointStore(folder)
    checkpoints.save(1, tree_of(1), {}, keep=1)
    checkpoints.wait()

    def before(operation, name):
        if operation == "put" and "manifest.json" in name:
            assert slow.wait(60)

    store.before = before
    checkpoints.save(2, tree_of(2), {}, keep=1)
    checkpoints.poll()
    assert CheckpointStore(folder).latest() == 1
    slow.set()
    checkpoints.wait()
    assert CheckpointStore(folder).latest() == 2
    checkpoints.close()


def test_an_artifact_and_an_export_are_read_where_they_lie(store, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "fitted").mkdir()
    (tmp_path / "tokenizer.json").rename(tmp_path / "fitted" / "tokenizer.json")
    variables = {"params": tree_of(1)}
    folder = f"{BUCKET}/runs/a/artifact"
    for _ in range(2):  # the second in place of the first
        write_artifact(
            folder, variables, config={"x": 1}, preprocessing=tmp_path / "fitted", parents=[]
        )
    assert str(artifact_folder(f"run://{BUCKET}/runs/a")) == folder
    assert check_artifact(folder)["config"] == {"x": 1}
    found = read_artifact(f"run://{BUCKET}/runs/a", target_of(variables))
    jax.tree.map(np.testing.assert_array_equal, found, variables)

    model = ModelFolder(
        name="tower", config={"model_type": "bert"}, tensors={"w": np.ones(3)}, files={}, card="A."
    )
    about = {"label": "A", "dataset": "demo", "figures": {}}
    for _ in range(2):
        (where,) = write_export(f"{BUCKET}/runs/a/export", [model], about)
    assert where == f"{BUCKET}/runs/a/export/tower"
    assert "runs/a/export/tower/model.safetensors" in store.objects()
    store.put(f"{BUCKET}/{'runs/a/artifact/preprocessing/tokenizer.json'}", b"other")
    with pytest.raises(UserError, match="was changed"):
        read_artifact(folder, target_of(variables))


def test_results_are_found_in_it(store):
    with pytest.raises(UserError, match=r"No result.json under gs://bucket/runs"):
        store.put(f"{BUCKET}/runs/a/config.json", b"{}")
        read_results([f"{BUCKET}/runs"])
    store.put(f"{BUCKET}/runs/a/result.json", b"{}")
    with pytest.raises(UserError, match=r"gs://bucket/runs/a/result.json has format_version"):
        read_results([f"{BUCKET}/runs"])


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "originals"
    folder.mkdir()
    for split in ("train", "dev"):
        turns = [
            {"speaker": 0, "text": f"look, {split}"},
            {"speaker": 0, "photos": [{"file_name": "1.png", "labels": ["dog"]}]},
        ]
        (folder / f"{split}.jsonl").write_text(json.dumps({"turns": turns}))
    return folder


def test_a_dataset_is_prepared_once_and_copied_to_every_host(
    store, originals, tmp_path, monkeypatch
):
    def opened(host: str):
        monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / host))
        return open_dataset(
            "dialogue_folder", "dev", data_dir=f"{BUCKET}/data", manual_dir=originals
        )

    # The host that prepares is cut off before the manifest: nothing is there for others.
    store.before = refuse("put", "manifest.json")
    with pytest.raises(UserError, match=r"gs://bucket/data/.* cannot be written \(HTTP .* 503"):
        opened("first")
    store.before = lambda operation, name: None
    first = opened("first")  # its copy is whole, and is put there now
    assert any(name.startswith("data/dialogue_folder/") for name in store.objects())

    def fail(*args, **kwargs):
        raise AssertionError("prepared again")

    monkeypatch.setattr(DatasetBuilder, "download_and_prepare", fail)
    second = opened("second")
    assert second.fingerprint == first.fingerprint
    assert [second[0].turns, len(second)] == [first[0].turns, 1]
    assert not list((tmp_path / "second").rglob("manifest.json"))

    shard = next(name for name in store.objects() if "array_record" in name)
    store.put(f"{BUCKET}/{shard}", b"other")
    with pytest.raises(UserError, match=r"damaged \(.*array_record.* was changed"):
        opened("third")
    assert not list((tmp_path / "third").rglob("dataset_info.json"))


def test_a_place_in_the_store_and_its_copy(monkeypatch, tmp_path):
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path))
    here = mirror.local_dir("gs://bucket/data/")
    assert here == epath.Path(tmp_path) / "gs" / "bucket" / "data"
    assert str(mirror.remote_dir(here / "a" / "1.0.0", "gs://bucket/data")) == (
        "gs://bucket/data/a/1.0.0"
    )
    assert mirror.local_dir(tmp_path) == epath.Path(tmp_path)
