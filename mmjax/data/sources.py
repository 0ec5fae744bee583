"""Sources: named, versioned, random access to dialogues; and how a dataset becomes one.

`open_dataset` prepares a dataset with its TFDS builder when it is not there yet, and reads the
prepared `array_record` files without TensorFlow. A fingerprint stands for the content: plans,
caches and results carry it, so that none of them is used with other data.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import importlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from absl import logging as absl_logging
from etils import epath

from mmjax.data.schema import SPLITS, Dialogue, from_record
from mmjax.errors import UserError

# Dataset name -> module with its `Builder`. A new dataset is one package and one line here.
DATASETS = {
    "photochat": "tfds_builders.photochat.photochat_dataset_builder",
    "dialogue_folder": "tfds_builders.dialogue_folder.dialogue_folder_dataset_builder",
}


@runtime_checkable
class Source(Protocol):
    """Random access to dialogues. `name`: "photochat/release:train"; `fingerprint`: hex."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Dialogue: ...


def open_dataset(
    name: str, split: str, *, data_dir: Any, manual_dir: Any = None, max_bad_records: int = 0
) -> TfdsSource:
    """A split ("train", "dev", "test") of a dataset, prepared under `data_dir` when it is not.

    `name`: a key of `DATASETS`, with "/config" where it has configs ("photochat/demo").
    `manual_dir`: the folder with the original files; each builder has its default places.
    `max_bad_records`: how many records of the original files may be left out (and logged).
    Raises `UserError` when the dataset cannot be had: unknown, absent, damaged, no room for it.
    """
    dataset, _, config = name.partition("/")
    _known(dataset, tuple(DATASETS), "dataset")
    _known(split, SPLITS, "split")
    with _quiet():
        builder_class = importlib.import_module(DATASETS[dataset]).Builder
        if config:
            _known(config, builder_class.CONFIGS, f"config of {dataset}")
        builder = builder_class(
            data_dir=os.fspath(data_dir),
            config=config,
            manual_dir=manual_dir,
            max_bad_records=max_bad_records,
        )
        _prepare(builder)
    builder.check_prepared()
    if split not in builder.info.splits:
        raise UserError(
            f"{name} has no split {split!r} in {manual_dir or data_dir}, only "
            f"{', '.join(builder.info.splits)}; add it or choose another one."
        )
    return TfdsSource(builder.data_path, split)


class ListSource:
    """Dialogues in memory: tests and small sets. The fingerprint is a digest of the content."""

    def __init__(self, dialogues: Sequence[Dialogue], name: str = "list:train"):
        self.name = name
        self._dialogues = tuple(dialogues)
        state = hashlib.sha256(name.encode())
        for dialogue in self._dialogues:
            state.update(json.dumps(asdict(dialogue)).encode() + b"\n")
        self.fingerprint = state.hexdigest()

    def __len__(self) -> int:
        return len(self._dialogues)

    def __getitem__(self, i: int) -> Dialogue:
        return self._dialogues[i]


class TfdsSource:
    """A split of a prepared dataset, read by index through TFDS' `as_data_source`.

    Cheap to pickle: a worker process opens the files itself, when it first reads.
    """

    def __init__(self, folder: Any, split: str):
        self._folder, self._split = os.fspath(folder), split
        self._records = None
        info = self._open().info
        rows = info.splits[split]
        config = info.full_name.rsplit("/", 1)[0]
        self.name = f"{config}:{split}"
        self._length = rows.num_examples
        content = {
            "name": info.full_name,
            "split": split,
            "shards": list(rows.shard_lengths),
            "bytes": rows.num_bytes,
            "source": dict(info.metadata or {}),
        }
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Dialogue:
        if not -self._length <= i < self._length:
            raise IndexError(f"{self.name} has {self._length} dialogues, index {i} is out of range")
        try:
            if self._records is None:
                self._records = self._open().as_data_source(self._split)
            record = self._records[int(i) % self._length]
        except RuntimeError as error:  # array_record keeps a hash of every chunk
            raise damaged(self._folder, error) from error
        return from_record(record)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}

    def _open(self) -> Any:
        import tensorflow_datasets as tfds

        with _quiet():
            return tfds.builder_from_directory(self._folder)


def damaged(folder: Any, reason: Any) -> UserError:
    """The error for prepared data that cannot be read: they can always be made again."""
    why = str(reason).splitlines()[0]
    return UserError(
        f"The prepared data in {folder} are damaged ({why}); delete that folder and "
        "run the command again."
    )


def _known(name: str, names: Sequence[str], what: str) -> None:
    if name in names:
        return
    if not names:
        raise UserError(f"Unknown {what}: {name!r}; there is none, leave it out.")
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "choose one of these."
    raise UserError(f"Unknown {what}: {name!r}; there are {', '.join(names)}: {hint}")


def _prepare(builder: Any) -> None:
    """Writes the dataset unless it is there; TFDS renames a finished folder, so it is whole."""
    import tensorflow_datasets as tfds

    folder = builder.data_path
    if folder.exists():
        return
    try:
        with _only_one(folder):
            # Another process may have finished while this one waited.
            if not folder.exists():
                absl_logging.info("Preparing %s in %s.", builder.info.full_name, folder)
                # TFDS prints "Unknown size" twice on stdout; its progress bars are on stderr.
                with contextlib.redirect_stdout(io.StringIO()), _own_line():
                    builder.download_and_prepare(
                        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                    )
    except (OSError, RuntimeError) as error:
        reason = _disk_trouble(error)
        if reason is None:
            raise
        raise UserError(
            f"{folder} cannot be written ({reason}); make room or rights there, or prepare "
            "elsewhere with --config.data.data_dir=DIR."
        ) from error
    builder.info.read_from_directory(folder)


def _disk_trouble(error: Exception) -> str | None:
    """What is wrong with the disk, or None for other errors.

    The writer of array_record reports a full disk as a RuntimeError with the system's words in it.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)
    return next((os.strerror(code) for code in codes if os.strerror(code) in str(error)), None)


@contextlib.contextmanager
def _only_one(folder: epath.Path) -> Iterator[None]:
    """One process prepares a dataset, others wait; what a killed one left behind is removed.

    The lock is the kernel's, so it ends with its process. Object stores have none: there TFDS'
    own renaming must do, and only one process of a job should prepare.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(folder):
        yield
        return
    with open(folder.parent / ".lock", "w") as lock:  # noqa: PTH123 - flock wants a real file
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            absl_logging.warning("Another process prepares %s: waiting for it.", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
            left.rmtree()
        yield


@contextlib.contextmanager
def _own_line() -> Iterator[None]:
    """An error that interrupts a progress bar gets a line of its own."""
    try:
        yield
    except Exception:
        print(file=sys.stderr)
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars and warnings about data, drops what TFDS and TensorFlow say otherwise.

    The environment variables act only before TensorFlow is first imported, which is the case
    unless the caller imported it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

    def ours(record: logging.LogRecord) -> bool:
        chatter = "tensorflow_datasets" in record.pathname and record.levelno < logging.ERROR
        return not chatter

    logger = absl_logging.get_absl_logger()
    logger.addFilter(ours)
    try:
        yield
    finally:
        logger.removeFilter(ours)
