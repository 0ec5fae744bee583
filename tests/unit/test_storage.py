"""Files are whole or absent, in a folder and in an object store."""

from __future__ import annotations

import errno
import os

import pytest
from etils import epath

from mmjax import storage
from mmjax.errors import OutageError, UserError
from tests.object_store import BUCKET, installed


@pytest.fixture(params=["folder", "object store"])
def place(request, tmp_path):
    if request.param == "folder":
        (tmp_path / "here").mkdir()
        yield epath.Path(tmp_path / "here")
        return
    with installed(tmp_path / "store"):
        yield epath.Path(BUCKET) / "here"


def test_what_is_written_is_read(place):
    storage.write_text(place / "a.txt", "grün\n")
    storage.write_bytes(place / "b.bin", b"\0\xff")
    storage.write_text(place / "a.txt", "new")
    assert (place / "a.txt").read_text() == "new"
    assert [file.name for file in storage.files(place)] == ["a.txt", "b.bin"]


def test_a_folder_travels_and_keeps_its_digests(place, tmp_path):
    storage.write_text(place / "deep" / "er" / "a.txt", "a") if storage.is_remote(place) else None
    storage.write_bytes(place / "b.bin", bytes(range(256)) * 100)
    storage.copy_folder(place, tmp_path / "copy")
    wanted = storage.digests(place)
    assert storage.digests(epath.Path(tmp_path / "copy")) == wanted
    sizes = {name: [size, ""] for name, (size, _) in wanted.items()}
    assert storage.digests(place, content=False) == sizes
    with storage.local_folder(place) as here, storage.local_file(place / "b.bin") as file:
        assert not storage.is_remote(here)
        assert storage.digests(here) == wanted
        assert len(open(file, "rb").read()) == 25600  # noqa: PTH123, SIM115


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "a.txt"
    storage.write_text(path, "before")
    kind, write = type(path), type(path).write_text

    def full(self, text):
        write(self, text[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kind, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_text(path, "after")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"


def test_a_put_that_fails_leaves_what_was_there(tmp_path):
    tf = pytest.importorskip("tensorflow")
    with installed(tmp_path) as store:
        path = epath.Path(BUCKET) / "a.txt"
        storage.write_text(path, "before")

        def broken(operation, name):
            if operation == "put":
                raise tf.errors.UnavailableError(None, None, "503: come again")

        store.before = broken
        with pytest.raises(OSError, match="503: come again"):
            storage.write_text(path, "after")
        assert store.objects() == {"a.txt": b"before"}


def test_what_tensorflow_raises_is_an_os_error():
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(OSError, match="no right"), storage.as_os_errors():
        raise tf.errors.PermissionDeniedError(None, None, "no right\nmore")
    with pytest.raises(KeyError), storage.as_os_errors():
        raise KeyError("a bug")


def test_who_must_act_is_told_by_the_kind_of_error():
    """A launcher starts a run again after an outage, and after nothing else."""
    tf = pytest.importorskip("tensorflow")
    errors = tf.errors
    outages = [
        errors.UnavailableError(None, None, "503"),
        errors.DeadlineExceededError(None, None, "slow"),
        errors.FailedPreconditionError(None, None, "libcurl code 6: Couldn't resolve host name"),
        ValueError("UNAVAILABLE: Error writing: CURL error"),  # TensorStore's
    ]
    refusals = [
        errors.PermissionDeniedError(None, None, "403"),
        ValueError("PERMISSION_DENIED: no right"),
    ]
    for error, kind in [(e, OutageError) for e in outages] + [(e, UserError) for e in refusals]:
        sentence = pytest.raises(UserError, match=r"^it cannot be read \(.*\): look\.$")
        with sentence as told, storage.told("it cannot be read", "look"):
            raise error
        assert type(told.value) is kind
        assert type(storage.as_told(error)) is kind
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert storage.failure(full) is UserError
    assert storage.failure(TimeoutError("no answer within 50 s")) is OutageError
    for bug in (full, ValueError("shapes differ"), errors.FailedPreconditionError(None, None, "x")):
        assert storage.as_told(bug) is None
