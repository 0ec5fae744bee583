"""Files that are whole or absent, in folders of this machine and in object stores.

In a folder, what is written goes to a file beside its place and then takes it: a kill or a full
disk leaves what was there before. An object store (`gs://`) has neither rename nor append, and
needs none: a put is whole or absent there. Transient failures are tried again by the libraries
that talk to the store (TensorFlow's file system, TensorStore).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etils import epath

from mmjax.errors import OutageError, UserError

if TYPE_CHECKING:
    import tensorstore as ts

_BLOCK = 1 << 22
_PART = ".part"  # what a kill while writing leaves has such a name
_AT_ONCE = 8  # files on the way to or from an object store
# Codes of TensorFlow's errors; TensorStore's, which are ValueErrors, begin with the same names.
_LATER = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")  # it may answer when it is asked again
_NO_RIGHT = ("PERMISSION_DENIED", "UNAUTHENTICATED")


class StoreError(OSError):
    """What an object store refuses."""


class StoreUnavailableError(StoreError, ConnectionError):
    """An object store cannot be reached for now."""


def is_remote(path: epath.PathLike) -> bool:
    """Whether it is in an object store."""
    return "://" in os.fspath(path)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file, whole or not at all. Raises OSError."""
    _put(epath.Path(path), "write_text", text)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes a file, whole or not at all. Raises OSError."""
    _put(epath.Path(path), "write_bytes", data)


def files(folder: epath.Path) -> Iterator[epath.Path]:
    """Every file at any depth, in order; what a kill left half written is none."""
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            yield from files(child)
        elif child.suffix != _PART:
            yield child


def digests(folder: epath.Path, *, content: bool = True) -> dict[str, list]:
    """name -> [bytes, SHA-256] of every file of a folder.

    Args:
      content: False: nothing is read, and "" stands for the digest.
    """
    found = {}
    for file in files(folder):
        name = str(file.relative_to(folder))
        if not content:
            found[name] = [file.stat().length, ""]
            continue
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as f:
            while block := f.read(_BLOCK):
                digest.update(block)
                size += len(block)
        found[name] = [size, digest.hexdigest()]
    return found


def copy_folder(source: epath.PathLike, target: epath.PathLike) -> None:
    """Copies every file of a folder into another, each whole or not at all. Raises OSError."""
    source, target = epath.Path(source), epath.Path(target)
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool, as_os_errors():
        copies = [
            pool.submit(_copy, file, target / str(file.relative_to(source)))
            for file in files(source)
        ]
        for copy in copies:
            copy.result()


@contextlib.contextmanager
def local_folder(folder: epath.PathLike) -> Iterator[epath.Path]:
    """The folder on this machine, for libraries that read nothing else."""
    if not is_remote(folder):
        yield epath.Path(folder)
        return
    with tempfile.TemporaryDirectory() as here:
        copy_folder(folder, here)
        yield epath.Path(here)


@contextlib.contextmanager
def local_file(file: epath.PathLike) -> Iterator[str]:
    """The file on this machine, for libraries that read nothing else."""
    if not is_remote(file):
        yield os.fspath(file)
        return
    with tempfile.TemporaryDirectory() as here, as_os_errors():
        copy = epath.Path(here) / epath.Path(file).name
        _copy(epath.Path(file), copy)
        yield os.fspath(copy)


def key_values(folder: epath.PathLike) -> ts.KvStore:
    """The objects of a folder of an object store, with writes that may have a condition."""
    import tensorstore as ts

    return ts.KvStore.open(f"{os.fspath(folder)}/").result()


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """What TensorFlow and TensorStore raise for an object store is an OSError, as for a folder."""
    try:
        yield
    except Exception as error:
        refused = _refusal(error)
        if refused is None or refused is error:
            raise
        raise refused from error


@contextlib.contextmanager
def told(what: str, then: str) -> Iterator[None]:
    """What a disk or an object store refuses in here is one sentence: "WHAT (reason): THEN."

    Raises:
      UserError: something is to be mended; OutageError: the object store may answer later.
    """
    try:
        with as_os_errors():
            yield
    except OSError as error:
        raise failure(error)(f"{what} ({reason(error)}): {then}.") from error


def failure(error: BaseException) -> type[UserError]:
    """As what to tell it: whether somebody must act, or the same command alone goes on."""
    later = isinstance(error, TimeoutError) or isinstance(_refusal(error), StoreUnavailableError)
    return OutageError if later else UserError


def reason(error: BaseException) -> str:
    """The system's words; TensorStore gives its error number at the end of a long report."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is not None:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]


def as_told(error: BaseException) -> UserError | None:
    """For what nobody has caught: a sentence where an object store refused; None: a bug."""
    if not isinstance(error, StoreError) and _code(error) not in (*_LATER, *_NO_RIGHT):
        return None
    return failure(error)(
        f"the object store refused ({reason(error)}): see that this machine may use it and "
        "reaches it, and give the same command again."
    )


def _refusal(error: BaseException) -> StoreError | None:
    """The error of an object store in this house's words; None: it is of something else."""
    if isinstance(error, StoreError):
        return error
    code = _code(error)
    if code is None:
        return None
    return (StoreUnavailableError if code in _LATER else StoreError)(reason(error))


def _code(error: BaseException) -> str | None:
    """The name of an object store's error; "" where it matters to nobody here, None: no such."""
    names = (*_LATER, *_NO_RIGHT)
    tensorflow = sys.modules.get("tensorflow")  # not imported: it raised nothing
    if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
        if "resolve host" in str(error):  # a precondition has failed, says its file system then
            return "UNAVAILABLE"
        return {getattr(tensorflow.errors, name): name for name in names}.get(error.error_code, "")
    if isinstance(error, ValueError):
        return next((name for name in names if str(error).startswith(f"{name}:")), None)
    return None


def _put(path: epath.Path, write: str, content: Any) -> None:
    with as_os_errors(), _placed(path) as place:
        getattr(place, write)(content)


def _copy(source: epath.Path, target: epath.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _placed(target) as place, source.open("rb") as read, place.open("wb") as write:
        shutil.copyfileobj(read, write, _BLOCK)


@contextlib.contextmanager
def _placed(path: epath.Path) -> Iterator[epath.Path]:
    """Where to write what shall be `path` when this is left without an error."""
    if is_remote(path):
        yield path
        return
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{_PART}")
    try:
        yield part
        part.replace(path)
    except Exception:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
