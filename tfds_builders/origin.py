"""Where a dataset's records and photos come from: what a builder has to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from mmjax.data.schema import Dialogue
from tfds_builders.checks import BadRecordError

Key = str
Reader = Callable[[Any, str], Iterator[tuple[Key, Dialogue | BadRecordError]]]


@dataclass(frozen=True)
class Origin:
    """Dialogues that can be read, and the digest that names their content.

    `fetch(download_manager)` makes the content available and returns what `read` wants as its
    first argument; it does nothing for data that is already here.
    """

    config: str
    digest: str
    read: Reader
    splits: tuple[str, ...]
    fetch: Callable[[Any], Any] = field(default=lambda download_manager: None)


@dataclass(frozen=True)
class PhotoOrigin:
    """Photos that can be had, each once.

    Attributes:
      name: of the set within its dataset ("demo", "release").
      digest: of what is asked for: ids and, where the files are here, their content.
      read: gives (photo id, encoded bytes). A photo that cannot be had is left out, one that is
        there and broken comes as a BadRecordError. The argument is a folder for downloads, which
        is kept when the process dies.
    """

    name: str
    digest: str
    read: Callable[[epath.Path], Iterator[tuple[Key, bytes | BadRecordError]]]
