"""How dialogues become examples: the part of a task that the data pipeline works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mmjax.data.featurize import Ragged
from mmjax.data.packing import Packing
from mmjax.data.schema import Dialogue


@dataclasses.dataclass(frozen=True)
class Example:
    """One training or evaluation example within a dialogue, as the index keeps it.

    Attributes:
      sub: which one of its dialogue; given back to `featurize`.
      lengths: length of each ragged feature, so that a batch's padded shape is known to every
        process before anything is featurized.
      keys: names of what must not count as a negative or be embedded twice, as strings
        ("photo": its id); the index turns them into numbers.
      targets: whole numbers that evaluation compares with (a label); the index keeps them.
    """

    sub: int
    lengths: Mapping[str, int]
    keys: Mapping[str, str]
    targets: Mapping[str, int] = dataclasses.field(default_factory=dict)


class SkipRecord(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised by `Featurizer.examples`: the record is valid but holds nothing for the task.

    The message is the reason, counted and reported; too many of them stop the run
    (`config.data.max_skipped_fraction`).
    """


class Featurizer(Protocol):
    """What the data pipeline asks of a task.

    Attributes:
      ragged: for each feature of varying length, how it is padded.
      key_names: order of the columns of `batch["keys"]`.
      cached: features that depend on the dialogue alone and are small, so that they may be kept
        in memory.
      photos: whether it reads pixels: the photos are prepared only for those that do.
      boxes: whether it also reads where in them objects are.
      inputs: what it reads of a dialogue, of `mmjax.data.perturb.INPUTS`.
      packs: whether several examples may share a row in training.
      identity: JSON values that, with a source's fingerprint, determine its examples.
    """

    ragged: Mapping[str, Ragged]
    key_names: Sequence[str]
    cached: Collection[str]
    photos: bool
    boxes: bool
    inputs: Collection[str]
    packs: bool
    identity: Mapping[str, Any]

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        """The dialogue's examples. Raises SkipRecord."""

    def remaining(self, dialogue: Dialogue, subs: Sequence[int]) -> Iterable[Example]:
        """What became of the examples `subs` when something was taken away from their dialogue.

        They are the same ones, however little is left of them. Raises SkipRecord where they cannot
        be.
        """

    def featurize(
        self, dialogue: Dialogue, sub: int, rng: np.random.Generator | None
    ) -> Mapping[str, np.ndarray]:
        """One example as numpy arrays: ragged features 1-D, others of one fixed shape.

        What costs much, pixels above all, is made when it is asked for (`featurize.Lazy`).

        Args:
          rng: for what is drawn at random in training; None in evaluation.
        """

    def packing(self, row_length: int) -> Packing:
        """How examples share rows of so many tokens, where it `packs`."""
