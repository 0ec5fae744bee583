"""The builder of "lccc": short Chinese conversations, as the sample of the LCCC release has them.

`toy_data.json` is {"train": [[turn, ...], ...], "valid": ..., "test": ...}; characters, or words,
are separated by spaces.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mmjax.data.schema import SPLITS, Dialogue, Turn
from mmjax.errors import UserError
from tfds_builders.base import DialogueBuilder
from tfds_builders.checks import (
    MAX_TURNS,
    BadRecordError,
    Place,
    at_most,
    field,
    parse_json,
    read_bytes,
    typed,
)
from tfds_builders.local_release import Files, LocalRelease, published
from tfds_builders.origin import Origin

_FILE = "toy_data.json"
RELEASE = LocalRelease(
    "lccc",
    "lccc_toy",
    published(__file__),
    "https://github.com/thu-coai/CDial-GPT (data/toy_data.json)",
)
_THEIRS = {"train": "train", "dev": "valid", "test": "test"}


class Builder(DialogueBuilder):
    """Two people take turns."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        return RELEASE.origin(manual_dir, read, SPLITS)


def read(files: Files, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The conversations of a split, in their order."""
    path, sha256 = files[_FILE]
    data, theirs = read_bytes(path, str(path)), _THEIRS[split]
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path} changed while it was read; run the command again.")
    place = Place(str(path))
    try:
        talks = field(typed(parse_json(data, str(path)), dict, place), theirs, list, place)
    except BadRecordError as bad:
        raise UserError(f"{bad}; get the file again from {RELEASE.original}.") from bad
    for number, talk in enumerate(talks):
        key = f"{theirs}:{number}"
        try:
            yield key, parse(talk, key, Place(f"{path}, {theirs}, dialogue {number}"))
        except BadRecordError as bad:
            yield key, bad


def parse(talk: Any, name: str, place: Place) -> Dialogue:
    """One conversation. Raises BadRecordError where it is no list of texts, or one is empty."""
    turns = at_most(typed(talk, list, place), MAX_TURNS, place)
    said = [unspaced(typed(text, str, place / k)) for k, text in enumerate(turns)]
    if not all(said):
        raise BadRecordError(f"{place / said.index('')}: it is empty")
    if len(said) < 2:
        raise BadRecordError(f"{place}: nobody answers")
    return Dialogue(name, tuple(Turn(k % 2, text) for k, text in enumerate(said)))


def unspaced(text: str) -> str:
    """The text as it was written: the spaces are a tokenizer's, but for those between two words of
    Latin letters or digits (of which one has several, else they may be one word in pieces)."""
    words = text.split()
    parts = words[:1]
    for one, other in itertools.pairwise(words):
        latin = one.isascii() and other.isascii() and one[-1].isalnum() and other[0].isalnum()
        parts.append(" " * (latin and len(one + other) > 2) + other)
    return "".join(parts)
