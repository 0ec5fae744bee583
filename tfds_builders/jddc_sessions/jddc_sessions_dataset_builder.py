"""The builder of "jddc_sessions": customer service with roles, and a set with three answers each.

`chat_0.1per.txt` has a message per line, tab separated: session, customer, 1 where the agent
speaks, two flags that are not read, the product or "nan", text. `dev_question.txt` and
`dev_answer.txt` are read by `questions`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mmjax.data.annotations import AGENT, CUSTOMER, Product
from mmjax.data.schema import SPLITS, Dialogue, Turn
from tfds_builders.base import DialogueBuilder
from tfds_builders.carving import split_of
from tfds_builders.checks import MAX_TURNS, BadRecordError, Place, at_most
from tfds_builders.jddc_sessions import questions
from tfds_builders.local_release import Files, LocalRelease, published
from tfds_builders.origin import Origin
from tfds_builders.text_lines import text_lines

RELEASE = LocalRelease(
    "jddc_sessions",
    "jddc_raw_sample",
    published(__file__),
    "https://github.com/EndlessLethe/jddc2019-3th-retrieve-model (folder data)",
)
ROLES = (CUSTOMER, AGENT)
_COLUMNS = 7
_NO_PRODUCT = ("", "nan", "0", "NULL")
# The challenge's word for "did not reply".
NOTHING = "NULL"


class Builder(DialogueBuilder):
    """Sessions as train and dev; the challenge's development set, with its answers, as test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    PARTS = ("roles", "targets", "references", "products")

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        return RELEASE.origin(manual_dir, read, SPLITS)


def read(files: Files, split: str) -> Iterator[tuple[str, Dialogue | BadRecordError]]:
    """The sessions of a split; dev is a tenth of them, by the session's id."""
    if split == "test":
        yield from questions.read(files["dev_question.txt"], files["dev_answer.txt"])
        return
    seen: set[str] = set()
    for name, rows in itertools.groupby(_rows(*files["chat_0.1per.txt"]), key=lambda row: row[0]):
        group = list(rows)
        place = group[0][1]
        bad = next((row for _, _, row in group if isinstance(row, BadRecordError)), None)
        # Lines before any session count in train alone.
        if (split_of(name) if name else "train") != split:
            continue
        try:
            if bad is not None:
                raise bad
            if name in seen:
                raise BadRecordError(f"{place}: session {name!r} ended before, and goes on here")
            seen.add(name)
            yield name, session(name, [row for _, _, row in group], place)
        except BadRecordError as error:
            yield name or str(place), error


def session(name: str, rows: list[list[str]], place: Place) -> Dialogue:
    """The turns of one session, [role, product, text] each; the agent's are to be said.

    An agent who speaks first answers nothing: that turn is no target. Messages that are "NULL" were
    not sent. Raises BadRecordError for another role, and where nothing is said.
    """
    turns, targets = [], []
    for role, _, text in at_most(rows, MAX_TURNS, place):
        if role not in ("0", "1"):
            raise BadRecordError(f"{place}: who speaks should be 0 or 1 and is {role!r}")
        if not text.strip() or text.strip() == NOTHING:
            continue
        if role == "1" and turns:
            targets.append(len(turns))
        turns.append(Turn(int(role), text.strip()))
    if not turns:
        raise BadRecordError(f"{place}: nothing is said in session {name!r}")
    products = dict.fromkeys(product for _, product, _ in rows if product not in _NO_PRODUCT)
    return Dialogue(
        name,
        tuple(turns),
        roles=ROLES,
        targets=tuple(targets),
        products=tuple(Product(product) for product in products),
    )


def _rows(path: Any, sha256: str) -> Iterator[tuple[str, Place, list[str] | BadRecordError]]:
    """(session, place, [role, product, text]) of each line with text.

    A line that cannot be read belongs to the session before it, which is not whole then.
    """
    name = ""
    for place, line in text_lines(path, sha256):
        if isinstance(line, BadRecordError):
            yield name, place, line
        elif line.strip():
            # Tabs in the text are the text's.
            fields = line.split("\t", _COLUMNS - 1)
            if len(fields) < _COLUMNS:
                yield (
                    name,
                    place,
                    BadRecordError(
                        f"{place}: {len(fields)} columns separated by tabs, there should be "
                        f"{_COLUMNS}"
                    ),
                )
                continue
            name = fields[0]
            yield name, place, [fields[2], fields[5].strip(), fields[6]]
