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
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from absl import logging as absl_logging
from etils import epath

from mmjax import storage
from mmjax.data import mirror
from mmjax.data.photos import PhotoSet
from mmjax.data.quiet import quiet
from mmjax.data.records import Records
from mmjax.data.region_set import RegionSet
from mmjax.data.schema import SPLITS, Dialogue, PhotoFile, RegionFile, from_record, to_record
from mmjax.errors import UserError
from mmjax.parallel import distributed

# Dataset name -> module with its `Builder`. A new dataset is one package and one line here.
DATASETS = {
    "photochat": "tfds_builders.photochat.photochat_dataset_builder",
    "dialogue_folder": "tfds_builders.dialogue_folder.dialogue_folder_dataset_builder",
    "photo_folder": "tfds_builders.photo_folder.photo_folder_dataset_builder",
    "photo_sessions": "tfds_builders.photo_sessions.photo_sessions_dataset_builder",
    "coco_captions": "tfds_builders.coco_captions.coco_captions_dataset_builder",
    "jddc21": "tfds_builders.jddc21.jddc21_dataset_builder",
    "jddc_pairs": "tfds_builders.jddc_pairs.jddc_pairs_dataset_builder",
    "jddc_sessions": "tfds_builders.jddc_sessions.jddc_sessions_dataset_builder",
    "utterance_rewrite": "tfds_builders.utterance_rewrite.utterance_rewrite_dataset_builder",
    "known_products": "tfds_builders.known_products.known_products_dataset_builder",
    "lccc": "tfds_builders.lccc.lccc_dataset_builder",
}

_LOOKED_AT = 1000  # photos, to see whether features have ids as the dataset's


@runtime_checkable
class Source(Protocol):
    """Random access to dialogues.

    Attributes:
      name: "photochat/release:train"; fingerprint: of the content, hexadecimal.
      photos: where the pixels of its photos are, by id; None: they are not at hand.
      regions: where the features of their regions are, likewise.
    """

    name: str
    fingerprint: str
    photos: Mapping[str, PhotoFile] | None
    regions: Mapping[str, RegionFile] | None

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Dialogue: ...


def open_dataset(
    name: str,
    split: str,
    *,
    data_dir: Any,
    manual_dir: Any = None,
    max_bad_records: int = 0,
    photos: bool = False,
    boxes: bool = False,
    regions: str | None = None,
) -> TfdsSource:
    """A split ("train", "dev", "test") of a dataset, prepared under `data_dir` when it is not.

    `data_dir`: a folder, or a place in an object store, see `mmjax.data.mirror`.
    `name`: a key of `DATASETS`, with "/config" where it has configs ("photochat/demo").
    `manual_dir`: the folder with the original files; each builder has its default places.
    `max_bad_records`: how many records of the original files may be left out (and logged), and how
    many photos.
    `photos`: also prepare the photos, so that those that can be had have a `file`.
    `boxes`: some photo must have boxes of its objects.
    `regions`: folder or file with features of the photos' regions, see
    `tfds_builders.region_files`.
    Raises `UserError` when the dataset cannot be had: unknown, absent, damaged, no room for it.
    """
    dataset, _, config = name.partition("/")
    _known(dataset, tuple(DATASETS), "dataset")
    _known(split, SPLITS, "split")
    here = mirror.local_dir(data_dir)
    with quiet():
        builder_class = importlib.import_module(DATASETS[dataset]).Builder
        if config and not builder_class.has_config(config):
            _known(config, builder_class.CONFIGS, f"config of {dataset}")
        builder = builder_class(
            data_dir=os.fspath(here),
            config=config,
            manual_dir=manual_dir,
            max_bad_records=max_bad_records,
        )
        _prepare(builder, data_dir)
    builder.check_prepared()
    if split not in builder.info.splits:
        raise UserError(
            f"{name} has no split {split!r} in {manual_dir or data_dir}, only "
            f"{', '.join(builder.info.splits)}; add it or choose another one."
        )
    if boxes:
        _check_boxes(TfdsSource(builder.data_path, split))
    found = None
    if photos:
        origin = builder.photos()
        if origin is None:
            raise UserError(f"{name} has no photos, only texts about them: choose another dataset.")
        found = _open_photos(dataset, origin, data_dir, max_bad_records)
    if regions is None:
        return TfdsSource(builder.data_path, split, found)
    features = _open_regions(regions, data_dir, max_bad_records)
    source = TfdsSource(builder.data_path, split, found, features)
    _check_known(source, features, regions)
    return source


def _check_boxes(source: TfdsSource) -> None:
    """Without any, every photo would be seen as one region: noticed before one is fetched."""
    turns = (turn for i in range(len(source)) for turn in source[i].turns)
    if not any(photo.boxes for turn in turns for photo in turn.photos):
        raise UserError(
            f"no photo of {source.name} has boxes of its objects, which "
            "config.task.candidate=boxes looks at: choose a dataset that has them (photo_folder, "
            "coco_captions), or the cells of a grid (configs/retrieval.py:regions=grid)."
        )


def _open_regions(place: str, data_dir: Any, max_bad_records: int) -> RegionSet:
    with quiet():
        from tfds_builders.region_files import region_files
        from tfds_builders.region_set import RegionSetBuilder

        here = mirror.local_dir(data_dir)
        builder = RegionSetBuilder(
            data_dir=os.fspath(here),
            regions=region_files(place),
            max_bad_records=max_bad_records,
        )
        _prepare(builder, data_dir)
    builder.check_prepared()
    return RegionSet(builder.data_path, here)


def _check_known(source: TfdsSource, regions: RegionSet, place: str) -> None:
    """Ids of another kind (a number without the zeros before it) are noticed at once."""
    asked = []
    for i in range(len(source)):
        asked += [photo for turn in source[i].turns for photo in turn.photos]
        if any(photo.regions is not None for photo in asked):
            return
        if len(asked) > _LOOKED_AT:
            break
    if asked:
        raise UserError(
            f"config.data.regions={place} has none of the photos of {source.name}: its ids are "
            f"such as {next(iter(regions))!r}, the dataset's such as {asked[0].id!r}."
        )


def _open_photos(dataset: str, origin: Any, data_dir: Any, max_bad_records: int) -> PhotoSet:
    with quiet():
        from tfds_builders.photo_set import PhotoSetBuilder

        here = mirror.local_dir(data_dir)
        builder = PhotoSetBuilder(
            data_dir=os.fspath(here),
            dataset=dataset,
            photos=origin,
            max_bad_records=max_bad_records,
        )
        _prepare(builder, data_dir)
    builder.check_prepared()
    return PhotoSet(builder.data_path, here)


class ListSource:
    """Dialogues in memory: tests and small sets. The fingerprint is a digest of the content."""

    def __init__(self, dialogues: Sequence[Dialogue], name: str = "list:train"):
        self.name = name
        self._dialogues = tuple(dialogues)
        shared = [p for dialogue in dialogues for turn in dialogue.turns for p in turn.photos]
        self.photos = {p.id: p.file for p in shared if p.file is not None} or None
        self.regions = {p.id: p.regions for p in shared if p.regions is not None} or None
        state = hashlib.sha256(name.encode())
        for dialogue in self._dialogues:
            state.update(json.dumps(to_record(dialogue)).encode() + b"\n")
            for turn in dialogue.turns:
                for photo in turn.photos:
                    for stored in (photo.file, photo.regions):
                        state.update(b"" if stored is None else stored.digest.encode())
        self.fingerprint = state.hexdigest()

    def __len__(self) -> int:
        return len(self._dialogues)

    def __getitem__(self, i: int) -> Dialogue:
        return self._dialogues[i]


class TfdsSource:
    """A split of a prepared dataset, read by number.

    Attributes:
      photos: where the pixels of its photos are, by id; None: they were not asked for.
      regions: where the features of their regions are; likewise.
    """

    def __init__(
        self,
        folder: Any,
        split: str,
        photos: PhotoSet | None = None,
        regions: RegionSet | None = None,
    ):
        self._records = Records(folder, split)
        self.photos, self.regions = photos, regions
        self.name, self.fingerprint = self._records.name, self._records.fingerprint
        for other in (x for x in (photos, regions) if x is not None):
            both = f"{self.fingerprint} {other.fingerprint}"
            self.fingerprint = hashlib.sha256(both.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Dialogue:
        return from_record(self._records[i], self.photos, self.regions)


def _known(name: str, names: Sequence[str], what: str) -> None:
    if name in names:
        return
    if not names:
        raise UserError(f"Unknown {what}: {name!r}; there is none, leave it out.")
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "choose one of these."
    raise UserError(f"Unknown {what}: {name!r}; there are {', '.join(names)}: {hint}")


def _prepare(builder: Any, data_dir: Any) -> None:
    """Makes the dataset unless it is there; it is whole then.

    Of several processes the first one makes it while the others wait, and those that do not see
    its files (another machine's folder) make their own.
    """
    folder = builder.data_path
    remote = mirror.remote_dir(folder, data_dir) if storage.is_remote(data_dir) else None
    known = folder.exists()  # then the builder has read what stands there, or found it damaged

    def prepare() -> None:
        if not folder.exists():
            _make(builder, remote)
        if remote is not None and distributed.is_main() and not mirror.is_there(remote):
            mirror.publish(folder, remote)

    distributed.main_first(f"dataset {builder.info.full_name}", prepare)
    if not known:
        builder.info.read_from_directory(folder)


def _make(builder: Any, remote: epath.Path | None) -> None:
    """TFDS renames a finished folder, so that there is a whole one or none."""
    import tensorflow_datasets as tfds

    folder = builder.data_path
    try:
        with _only_one(folder):
            # Another process may have finished while this one waited.
            if folder.exists():
                return
            unfinished = folder.parent / f"incomplete.copy_{folder.name}"
            if remote is not None and mirror.fetch(remote, folder, unfinished):
                return
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

    The lock is the kernel's, so it ends with its process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
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
