"""The files of a folder, and which of them a name in a record means.

The folder is walked once; a name is looked up in memory. What a record names is one of the files
that were found, so that no name leads out of the folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError, Place

TABLE = ".jsonl"
_FOLDER = "images"
# Only for names without an ending ("001" for 001.jpg); otherwise the content decides.
_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_MAX_FILES = 5_000_000


class PhotoFiles:
    """All files below `root` but hidden ones and tables; links that lead out are not followed.

    Raises UserError for a folder that cannot be read.
    """

    def __init__(self, root: Path):
        self.root = root
        self._names: set[str] = set()
        self._links: set[str] = set()
        try:
            inside = os.path.realpath(root)
            for name, entry in _walk(root):
                if entry.is_symlink() and not _stays(entry, inside):
                    self._links.add(name)
                elif not name.endswith(TABLE):
                    self._names.add(name)
                if len(self._names) > _MAX_FILES:
                    raise UserError(
                        f"{root} holds more than {_MAX_FILES:,} files; name the folder of the "
                        "photos alone with --config.data.manual_dir=DIR."
                    )
        except OSError as error:
            where = error.filename or root
            raise UserError(f"{where} cannot be read ({error.strerror}); check it.") from error

    @property
    def names(self) -> list[str]:
        """Paths below the root, sorted."""
        return sorted(self._names)

    def path(self, name: str) -> Path:
        return self.root / name

    @property
    def digested(self) -> list[str]:
        """Those whose ending is a photo's: what else lies or appears below the root, a run's own
        files among it, does not make the dataset another one."""
        return [n for n in self.names if n.rpartition(".")[2].lower() in _ENDINGS]

    def names_digest(self) -> str:
        """Of the names of the photos alone."""
        state = hashlib.sha256()
        for name in self.digested:
            state.update(os.fsencode(name) + b"\0")
        return state.hexdigest()

    def find(self, name: str, place: Place) -> str:
        """The file's path below the root, as it is on the disk.

        Args:
          name: the path below the root or its `images`; the ending of a photo may be left out.

        Raises:
          BadRecordError: there is none, there are two, or the name leads out of the folder.
        """
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name or not parts:
            raise BadRecordError(f"{place}: {name!r} is no path below {self.root}; write one")
        paths = ("/".join(parts), "/".join([_FOLDER, *parts]))
        for path in paths:
            if path in self._names:
                return path
        for path in paths:
            found = self._by_form.get(_form(path), [])
            if len(found) > 1:
                raise BadRecordError(
                    f"{place}: {name!r} may be {found[0]!r} or {found[1]!r}; write the whole name"
                )
            if found:
                return found[0]
        for path in paths:
            steps = path.split("/")
            for k in range(len(steps)):
                way = "/".join(steps[: k + 1])
                if way in self._links:
                    raise BadRecordError(
                        f"{place}: {way!r} is a link that leads out of {self.root}; put the "
                        "photos themselves there"
                    )
        raise BadRecordError(
            f"{place}: {name!r} is not in {self.root} or its {_FOLDER} (hidden files do not count)"
        )

    @functools.cached_property
    def _by_form(self) -> dict[str, list[str]]:
        """Composed form, and that without the ending -> names: systems differ in how they write é.

        One name that has both forms is there once.
        """
        forms: dict[str, list[str]] = {}
        for name in self.names:
            form = _form(name)
            stem, _, ending = form.rpartition(".")
            for key in {form, stem} if ending.lower() in _ENDINGS else {form}:
                forms.setdefault(key, []).append(name)
        return forms


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """(path below the root, entry) of every plain file and link, without a `stat` for each."""
    waiting = [("", os.fspath(root))]
    while waiting:
        prefix, folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_symlink() or entry.is_file():
                    yield prefix + entry.name, entry


def _stays(link: os.DirEntry, root: str) -> bool:
    """Whether a link leads to a plain file below the root."""
    target = os.path.realpath(link.path)
    return os.path.commonpath([root, target]) == root and Path(target).is_file()


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
