"""The builder of "utterance_rewrite": two turns, a query that leans on them, and what it means.

A line of `train.txt` or `dev.txt` has them separated by tabs. There is no test set: the release's
dev is ours, and our dev comes out of its train, so that nothing is chosen on what is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mmjax.data.schema import SPLITS, Dialogue, Turn
from tfds_builders.base import DialogueBuilder
from tfds_builders.carving import split_of
from tfds_builders.checks import BadRecordError, Place
from tfds_builders.local_release import Files, LocalRelease, published
from tfds_builders.origin import Origin
from tfds_builders.text_lines import text_lines

RELEASE = LocalRelease(
    "utterance_rewrite",
    "utterance_rewrite",
    published(__file__),
    "https://github.com/liu-nlper/dialogue-utterance-rewriter or the authors' "
    "https://github.com/chin-gyou/dialogue-utterance-rewriter (the first 18,000 rows are train)",
)
_COLUMNS = 4


class Builder(DialogueBuilder):
    """Two people take turns; the third turn has a rewrite."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    PARTS = ("rewrites",)

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        return RELEASE.origin(manual_dir, read, SPLITS)


def read(files: Files, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The rows of a split; dev is a tenth of the release's train, by the two turns before."""
    name = "dev.txt" if split == "test" else "train.txt"
    for number, (place, line) in enumerate(text_lines(*files[name])):
        key = f"{name.removesuffix('.txt')}:{number}"
        if isinstance(line, str):
            if not line.strip():
                continue
            before = "\t".join(line.split("\t")[:2])
            if split != "test" and split_of(before) != split:
                continue
        elif split == "dev":
            continue  # counted in train
        try:
            yield key, parse(line, key, place)
        except BadRecordError as bad:
            yield key, bad


def parse(line: str | BadRecordError, name: str, place: Place) -> Dialogue:
    """One row; a turn before the query may be empty, as two are.

    Raises BadRecordError for another number of columns, no query, and no rewrite.
    """
    if isinstance(line, BadRecordError):
        raise line
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != _COLUMNS:
        raise BadRecordError(
            f"{place}: {len(fields)} columns separated by tabs, there should be {_COLUMNS}"
        )
    *before, query, rewrite = fields
    if not any(before):
        raise BadRecordError(f"{place}: nothing is said before the query")
    if not query or not rewrite:
        raise BadRecordError(f"{place}: the {'rewrite' if query else 'query'} is empty")
    turns = [Turn(k % 2, text) for k, text in enumerate(before)]
    return Dialogue(name, (*turns, Turn(0, query, rewrites=(rewrite,))))
