"""An object store for tests: what gs:// does, on files of a folder, and nothing that it does not.

There are objects and no folders: a folder is there when an object is below it. An object is put
whole when its writer closes it. Rename and append do not exist. Every call can be made to fail, or
to tell another test thread that it has come.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tensorstore as ts
from etils.epath import backend, stat_utils
from orbax.checkpoint._src.path import gcs_utils

BUCKET = "gs://bucket"


class ObjectStore(backend.Backend):
    """Stands in for the libraries that talk to gs://; see `installed`.

    Attributes:
      before: called with (operation, path) before each one; what it raises, the caller gets.
      operations: how many of each kind there were.
    """

    def __init__(self, root: Path):
        self.root = root
        self.before: Callable[[str, str], None] = lambda operation, path: None
        self.operations: dict[str, int] = {}
        self._lock = threading.Lock()

    def place(self, path: Any) -> Path:
        name = os.fspath(path)
        assert name.startswith(BUCKET), f"{name} is not in the store"
        return self.root / name.removeprefix(BUCKET).strip("/")

    def objects(self) -> dict[str, bytes]:
        """Name -> content of everything in the store."""
        return {
            str(p.relative_to(self.root)): p.read_bytes()
            for p in sorted(self.root.rglob("*"))
            if p.is_file()
        }

    def open(self, path: Any, mode: str) -> Any:
        if mode.startswith("r"):
            data = self._read(path)
            return io.BytesIO(data) if "b" in mode else io.StringIO(data.decode())
        if mode.startswith("a"):
            raise NotImplementedError(f"{path}: an object store cannot append")
        return _Put(self, path, text="b" not in mode)

    def put(self, path: Any, data: bytes) -> None:
        self._begin("put", path)
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.{threading.get_ident()}.__put")
        part.write_bytes(data)
        part.replace(place)

    def exists(self, path: Any) -> bool:
        self._begin("exists", path)
        return self.place(path).is_file() or self._is_folder(path)

    def isdir(self, path: Any) -> bool:
        self._begin("isdir", path)
        return self._is_folder(path)

    def listdir(self, path: Any) -> list[str]:
        self._begin("list", path)
        if not self._is_folder(path):
            raise FileNotFoundError(path)
        children = self.place(path).iterdir()
        # As TensorFlow lists them: folders end in a slash.
        return [
            f"{p.name}/" if p.is_dir() else p.name
            for p in children
            if p.is_file() or self._is_folder(f"{os.fspath(path)}/{p.name}")
        ]

    def glob(self, path: Any) -> list[str]:
        self._begin("list", path)
        pattern = str(self.place(path).relative_to(self.root))
        found = sorted(self.root.rglob("*"))
        names = (str(p.relative_to(self.root)) for p in found)
        depth = pattern.count("/")
        return [
            f"{BUCKET}/{n}" for n in names if n.count("/") == depth and fnmatch.fnmatch(n, pattern)
        ]

    def walk(self, top: Any, *, top_down: bool = True, on_error: Any = None) -> Iterator[Any]:
        for folder, folders, files in os.walk(self.place(top), topdown=top_down):
            name = str(Path(folder).relative_to(self.root))
            yield f"{BUCKET}/{name}", folders, files

    def makedirs(self, path: Any, *, exist_ok: bool = False, mode: Any = None) -> None:
        if not exist_ok and self._is_folder(path):
            raise FileExistsError(path)

    def mkdir(self, path: Any, *, exist_ok: bool = False, mode: Any = None) -> None:
        self.makedirs(path, exist_ok=exist_ok)

    def rmtree(self, path: Any) -> None:
        """Object by object: one that is cut short leaves the rest."""
        if not self._is_folder(path):
            raise FileNotFoundError(path)
        for place in sorted(self.place(path).rglob("*")):
            if place.is_file():
                self.remove(f"{BUCKET}/{place.relative_to(self.root)}")

    def remove(self, path: Any) -> None:
        self._begin("delete", path)
        self.place(path).unlink()

    def rename(self, path: Any, dst: Any) -> None:
        raise NotImplementedError(f"{path}: an object store cannot rename")

    replace = rename

    def copy(self, path: Any, dst: Any, overwrite: bool) -> None:
        raise NotImplementedError(f"{path}: read it and put it")

    def stat(self, path: Any) -> stat_utils.StatResult:
        self._begin("stat", path)
        size = self.place(path).stat().st_size
        return stat_utils.StatResult(
            is_directory=False, length=size, mtime=0, owner=None, group=None, mode=None
        )

    def key_values(self, folder: Any) -> ts.KvStore:
        """What TensorStore writes and reads, in the same place."""
        return ts.KvStore.open({"driver": "file", "path": f"{self.place(folder)}/"}).result()

    def _read(self, path: Any) -> bytes:
        self._begin("get", path)
        place = self.place(path)
        if not place.is_file():
            raise FileNotFoundError(path)
        return place.read_bytes()

    def _is_folder(self, path: Any) -> bool:
        place = self.place(path)
        return place.is_dir() and any(p.is_file() for p in place.rglob("*"))

    def _begin(self, operation: str, path: Any) -> None:
        with self._lock:
            self.operations[operation] = self.operations.get(operation, 0) + 1
        self.before(operation, os.fspath(path))


class _Put:
    """A writer; the object is there when it is closed without an error."""

    def __init__(self, store: ObjectStore, path: Any, *, text: bool):
        self._store, self._path, self._text = store, path, text
        self._data = io.BytesIO()

    def write(self, data: Any) -> int:
        return self._data.write(data.encode() if self._text else data)

    def __enter__(self) -> _Put:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        self._store.put(self._path, self._data.getvalue())


@contextlib.contextmanager
def installed(root: Path) -> Iterator[ObjectStore]:
    """gs://bucket is the folder `root`, for etils, TensorStore and Orbax."""
    root.mkdir(parents=True, exist_ok=True)
    store = ObjectStore(root)

    def kvstore_of(path: str) -> dict[str, str]:
        return {"driver": "file", "path": str(store.place(path))}

    with (
        mock.patch.object(backend, "tf_backend", store),
        mock.patch.object(gcs_utils, "get_kvstore_for_gcs", kvstore_of),
        mock.patch("mmjax.storage.key_values", store.key_values),
        mock.patch("etils.epath.gpath._is_zonal_gcs_bucket", lambda bucket: False),
    ):
        yield store
