"""Checkpoints are whole or do not count, and a save that fails is noticed and harms nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import logging
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.checkpoint import store as store_lib
from mmjax.checkpoint.store import CheckpointStore
from mmjax.errors import UserError


def tree_of(seed: int) -> dict:
    key = jax.random.key(seed)
    return {
        "step": jnp.int32(seed),
        "params": {
            "kernel": jax.random.normal(key, (3, 5)),
            "half": jax.random.normal(key, (4,), jnp.bfloat16),
        },
        "rng": jax.random.key_data(key),
        "state": (jnp.arange(seed, dtype=jnp.int32), None, jnp.float32(jnp.nan)),
    }


def target_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_equal(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def store(folder):
    store = CheckpointStore(folder)
    yield store
    with contextlib.suppress(UserError):
        store.close()


def saved(store: CheckpointStore, *steps: int, keep=10) -> None:
    for step in steps:
        store.save(step, tree_of(step), {"step": step}, keep=keep)
    store.wait()


def steps_on_disk(folder) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir())


def test_what_is_restored_is_what_was_saved(store, folder):
    saved(store, 7)
    again = CheckpointStore(folder)
    assert again.latest() == 7
    tree, host = again.restore(7, target_of(tree_of(7)))
    assert_equal(tree, tree_of(7))
    assert host == {"step": 7} == again.host(7)
    assert store.current == again.current == 7


def test_no_checkpoint_is_none(store, folder):
    assert store.latest() is None and store.current is None
    folder.mkdir()
    assert store.latest() is None and store.hosts() == []


def test_what_is_saved_is_the_value_at_the_call(store):
    """The training step gives the saved buffers up while they are being written."""
    size = 1 << 22
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    x = jnp.arange(size, dtype=jnp.float32)
    store.save(1, {"x": x}, {}, keep=1)
    for _ in range(3):
        x = step(x)
    x.block_until_ready()
    store.wait()
    target = {"x": jax.ShapeDtypeStruct((size,), jnp.float32, sharding=x.sharding)}
    np.testing.assert_array_equal(store.restore(1, target)[0]["x"], np.arange(size, dtype="f4"))


def test_a_flipped_byte_in_any_file_is_found_and_the_older_one_used(store, folder, caplog):
    saved(store, 1, 2)
    whole = folder.parent / "whole"
    shutil.copytree(folder / "2", whole)
    files = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file()]
    assert len(files) > 5
    for name in files:
        data = bytearray((whole / name).read_bytes())
        if not data:
            continue
        data[len(data) // 2] ^= 1
        (folder / "2" / name).write_bytes(data)
        caplog.clear()
        assert CheckpointStore(folder).latest() == 1, name
        (record,) = caplog.records
        assert record.levelno == logging.WARNING and f"{folder / '2'}" in record.getMessage()
        with pytest.raises(UserError, match="cannot be used"):
            CheckpointStore(folder).restore(2, target_of(tree_of(2)))
        (folder / "2" / name).write_bytes((whole / name).read_bytes())
    assert CheckpointStore(folder).latest() == 2


@pytest.mark.parametrize(
    "damage", ["file gone", "file more", "no manifest", "manifest cut", "list"]
)
def test_a_checkpoint_that_is_not_whole_does_not_count(store, folder, damage):
    saved(store, 1, 2)
    manifest = folder / "2" / "manifest.json"
    if damage == "file gone":
        (folder / "2" / "host.json").unlink()
    elif damage == "file more":
        (folder / "2" / "arrays" / "more").write_text("")
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:-10])
    else:
        manifest.write_text("{}")
    assert CheckpointStore(folder).latest() == 1


def test_an_empty_directory_with_a_number_is_no_checkpoint(store, folder):
    saved(store, 1)
    (folder / "5").mkdir()
    assert CheckpointStore(folder).latest() == 1


def test_a_folder_that_cannot_be_read_now_is_not_taken_for_damaged(store, folder, monkeypatch):
    saved(store, 1, 2)

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store_lib, "_digests", fail)
    with pytest.raises(UserError, match=r"2 cannot be read \(Input/output error\)"):
        CheckpointStore(folder).latest()


def test_reading_changes_nothing(store, folder):
    """Another process may look while a save is under way."""
    saved(store, 1, 2)
    (folder / "3" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    reader = CheckpointStore(folder)
    assert reader.latest() == 2
    reader.restore(2, target_of(tree_of(2)))
    reader.close()
    assert sorted(folder.rglob("*")) == before


def test_leftovers_of_killed_saves_go_with_the_next_save_and_nothing_else(store, folder):
    saved(store, 1)
    (folder / "2" / "arrays").mkdir(parents=True)
    (folder / "3").mkdir()
    (folder / "3" / "manifest.json").write_text('{"host.json": [1')
    (folder / "notes").mkdir()
    saved(CheckpointStore(folder), 4)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "4", "notes"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_latest_stay(store, folder, keep):
    saved(store, 1, 2, 3, 4, keep=keep)
    assert steps_on_disk(folder) == [1, 2, 3, 4][-keep:]


def test_exactly_the_named_stay(store, folder):
    saved(store, 1, 2, 3)
    saved(store, 9, keep={1, 3, 77})
    assert steps_on_disk(folder) == [1, 3, 9]


def test_after_falling_back_the_new_one_stays_and_the_broken_ones_go(store, folder):
    saved(store, 4, 8, 12)
    for step in (8, 12):
        (folder / str(step) / "host.json").write_text("{}")
    again = CheckpointStore(folder)
    assert again.latest() == 4
    saved(again, 5, keep=1)
    assert steps_on_disk(folder) == [5]


def test_saving_a_number_again_replaces_it(store, folder):
    saved(store, 3)
    store.check(3)
    store.save(3, tree_of(4), {"again": True}, keep=2)
    store.wait()
    tree, host = CheckpointStore(folder).restore(3, target_of(tree_of(4)))
    assert_equal(tree, tree_of(4))
    assert host == {"again": True}
    # What was found whole before says nothing of the new files.
    (folder / "3" / "host.json").write_text("{}")
    assert store.latest() is None


def test_a_removal_that_is_cut_short_leaves_nothing_that_counts(store, folder, monkeypatch):
    saved(store, 1, 2)
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)
    saved(store, 3, keep=1)
    monkeypatch.undo()
    assert CheckpointStore(folder).latest() == 3
    shutil.rmtree(folder / "3")
    assert CheckpointStore(folder).latest() is None


@contextlib.contextmanager
def files_at_most(size: int):
    """What a full disk is to a process: the kernel refuses to write on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_fails_is_told_at_the_next_step_and_harms_no_other(store, folder):
    saved(store, 1)
    large = {"x": jax.random.normal(jax.random.key(0), (1 << 20,))}
    with files_at_most(1 << 18):
        store.save(2, large, {}, keep=1)
        concurrent.futures.wait([store._pending])
        with pytest.raises(
            UserError, match=r"2 could not be saved in .* \(File too large\): .* free"
        ):
            store.poll()
    store.poll()  # told once
    assert steps_on_disk(folder) == [1]
    again = CheckpointStore(folder)
    assert again.latest() == 1
    # With room again, the same save succeeds.
    again.save(2, large, {}, keep=1)
    again.wait()
    assert steps_on_disk(folder) == [2]


@pytest.mark.parametrize("file", ["host.json", "manifest.json"])
def test_a_disk_that_fills_up_at_the_end_of_a_save(store, folder, monkeypatch, file):
    saved(store, 1)
    kind = type(store._folder)
    write = kind.write_text

    def full(path, text, *args, **kwargs):
        if path.name.startswith(file):
            write(path, text[:5], *args, **kwargs)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text, *args, **kwargs)

    monkeypatch.setattr(kind, "write_text", full)
    store.save(2, tree_of(2), {}, keep=1)
    concurrent.futures.wait([store._pending])
    with pytest.raises(UserError, match="No space left on device"):
        store.poll()
    assert steps_on_disk(folder) == [1]


def test_a_failed_save_is_told_by_the_next_save_too(store, monkeypatch):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_lib, "_digests", fail)
    store.save(1, tree_of(1), {}, keep=1)
    with pytest.raises(UserError, match="checkpoint 1 could not be saved"):
        store.save(2, tree_of(2), {}, keep=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["params"].update(kernel=jnp.zeros((3, 6))),
            r"params/kernel is shape \(3, 5\) float32 in it and shape \(3, 6\) float32",
        ),
        (
            lambda t: t["params"].update(half=jnp.zeros(4)),
            r"params/half is shape \(4,\) bfloat16 in it and shape \(4,\) float32",
        ),
        (
            lambda t: t["params"].update(more=jnp.zeros(2)),
            r"params/more is absent in it and shape \(2,\) float32",
        ),
        (lambda t: t["params"].pop("half"), "params/half is shape .* in it and absent"),
    ],
)
def test_another_model_is_refused_and_the_parameter_named(store, folder, change, message):
    saved(store, 2)
    other = tree_of(2)
    change(other)
    with pytest.raises(UserError, match=f"is of another model: {message}"):
        CheckpointStore(folder).restore(2, target_of(other))


def test_host_values_of_all_that_may_be_restored(store, folder):
    saved(store, 1, 2, 3)
    (folder / "2" / "host.json").write_text("{")
    (folder / "4").mkdir()
    assert store.hosts() == [{"step": 1}, {"step": 3}]
    assert json.loads((folder / "3" / "host.json").read_text())["host"] == {"step": 3}
