"""The builder of "jddc_pairs": what was said before, and the agent's answer.

`train.enc` has a context per line, its messages joined by ASCII commas, and the line of the same
number in `train.dec` the answer. Who said what in the context is not marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mmjax.data.annotations import AGENT, UNMARKED
from mmjax.data.schema import SPLITS, Dialogue, Turn
from tfds_builders.base import DialogueBuilder
from tfds_builders.carving import split_of
from tfds_builders.checks import BadRecordError, Place
from tfds_builders.local_release import Files, LocalRelease, published
from tfds_builders.origin import Origin
from tfds_builders.text_lines import side_by_side

RELEASE = LocalRelease(
    "jddc_pairs",
    "jddc_baseline",
    published(__file__),
    "the data of the challenge's Seq2Seq baseline, such as "
    "https://github.com/SimonJYang/JDDC-Baseline-Seq2Seq",
)
_BETWEEN = ","


class Builder(DialogueBuilder):
    """Every pair is a dialogue, whose last turn is the one to be said."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    PARTS = ("roles", "targets")

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        return RELEASE.origin(manual_dir, read, SPLITS)


def read(files: Files, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The pairs of a split; dev is a tenth of the release's train, by how a context begins."""
    name = "test" if split == "test" else "train"
    for number, (place, lines) in enumerate(
        side_by_side(files[f"{name}.enc"], files[f"{name}.dec"])
    ):
        key = f"{name}:{number}"
        if isinstance(lines, BadRecordError):
            if split != "dev":
                yield key, lines
            continue
        messages = _messages(lines[0])
        if name == "train" and split_of("\n".join(messages[:2])) != split:
            continue
        try:
            yield key, parse(messages, lines[1], key, place)
        except BadRecordError as bad:
            yield key, bad


def parse(messages: list[str], answer: str, name: str, place: Place) -> Dialogue:
    """One pair. Raises BadRecordError for an answer to nothing."""
    if not messages:
        raise BadRecordError(f"{place}: nothing is said before the answer {answer[:40]!r}")
    said = tuple(Turn(0, message) for message in messages)
    answer = answer.strip().removesuffix(_BETWEEN).strip()
    return Dialogue(name, (*said, Turn(1, answer)), roles=(UNMARKED, AGENT), targets=(len(said),))


def _messages(context: str) -> list[str]:
    return [message.strip() for message in context.split(_BETWEEN) if message.strip()]
