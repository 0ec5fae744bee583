"""The lines of a text file that comes from outside, with their places for messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from etils import epath

from mmjax.errors import UserError
from tfds_builders.checks import MAX_TEXT, BadRecordError, Place
from tfds_builders.dialogue_folder import jsonl


def text_lines(path: epath.Path, sha256: str) -> Iterator[tuple[Place, str | BadRecordError]]:
    """Each line without its end, empty ones too, or why it cannot be used.

    A line ends with "\\n" alone: chats hold other characters that Unicode calls line ends.

    Raises `UserError` as `jsonl.lines`.
    """
    done = 0
    for number, place, line in jsonl.lines(path, sha256):
        for empty in range(done + 1, number):
            yield Place(f"{path}, line {empty}"), ""
        done = number
        try:
            yield place, decoded(line, place)
        except BadRecordError as bad:
            yield place, bad


def decoded(line: bytes, place: Place) -> str:
    """The text of a line. Raises BadRecordError for one that is no UTF-8 or too long."""
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRecordError(f"{place} is not UTF-8 text at byte {error.start}") from error
    if len(text) > MAX_TEXT:
        raise BadRecordError(f"{place}: {len(text):,} characters, the limit is {MAX_TEXT:,}")
    return text


def side_by_side(
    first: tuple[epath.Path, str], second: tuple[epath.Path, str]
) -> Iterator[tuple[Place, tuple[str, str] | BadRecordError]]:
    """Lines of equal number of two files (path, SHA-256); places are the first one's.

    Raises `UserError` where one has more lines with text: they belong to nothing.
    """
    pairs = itertools.zip_longest(text_lines(*first), text_lines(*second))
    for number, (one, other) in enumerate(pairs, start=1):
        if one is None or other is None:
            longer, shorter = (first[0], second[0]) if other is None else (second[0], first[0])
            _, text = one or other
            if isinstance(text, str) and not text.strip():
                continue
            raise UserError(
                f"{longer} has a line {number} and {shorter} has not, so that lines of the two do "
                "not belong together; get both files again."
            )
        bad = next((text for _, text in (one, other) if isinstance(text, BadRecordError)), None)
        yield one[0], bad or (one[1], other[1])
