"""What a task is: how dialogues become examples, what is learned, and how it is judged.

A task knows datasets' schema, models, losses and metrics. It knows no mesh, process, writer or
checkpoint; the loop knows no task. To add one, write a class with these members in one file and
name it in `mmjax/tasks/__init__.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from mmjax.data.examples import Example, Featurizer
from mmjax.data.perturb import INPUTS
from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluator, Predict
from mmjax.losses.objective import Objective
from mmjax.pretrained.exported import ModelFolder

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Something a trained model offers outside its loss.

    Attributes:
      fn: (variables, batch) -> tree of arrays [B, ...]; other axes may differ between batches and
        are then filled up with zeros to the longest.
      features: what it reads of a batch; examples are sorted by the length of the first.
    """

    fn: Callable[[Any, Batch], Any]
    features: tuple[str, ...]


class Task(Featurizer, Protocol):
    """Everything that the loop and the systems ask of a task, beside making examples.

    A task is made from its options and its model's options. What has a body here may be left out
    by a class that inherits from this one; an audit then takes everything to be read.

    Attributes:
      role: whose turns alone are examples, as `Dialogue.roles` calls them; None: anybody's.
    """

    photos = False
    boxes = False
    inputs: Collection[str] = frozenset(INPUTS)
    packs = False
    role: str | None = None

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks of a mixture by name, each with a dataset of its own; of any other the task
        itself, as ""."""
        return {"": self}

    def remaining(self, dialogue: Dialogue, subs: Sequence[int]) -> Iterable[Example]:
        """Where `examples` leaves none out because little is left of it."""
        return self.examples(dialogue)

    @property
    def runs(self) -> Mapping[str, str]:
        """The runs ("run://DIR") whose answers it reads, by option."""
        return {}

    @property
    def independent(self) -> bool:
        """Whether the model's outputs for an example depend on that example alone."""
        return True

    def read_with(self, source: Source, split: str) -> Source:
        """The records of a split with what the task reads beside them (another run's answers)."""
        return source

    def learn_from(self, source: Source) -> Source:
        """The training split as it is learned from; who judges or answers it takes it as it is."""
        return source

    def fit(self, source: Source, folder: Any) -> None:
        """Makes what is fitted on training data (vocabularies, ...) and writes it to `folder`."""

    def load(self, folder: Any) -> None:
        """Reads what `fit` wrote."""

    def module(self) -> Any:
        """The model: a Linen module whose `__call__(batch, train=...)` gives a tree of outputs."""

    def objective(self) -> Objective:
        """What is minimised."""

    def predictors(self) -> Mapping[str, Predictor]:
        """What a trained model offers, by name."""

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        """Pretrained weights for `target`: {"params": ..., other collections}, abstract, with
        shardings.

        Returns:
          A tree like `target`, with None where there is nothing to load, and reports to print.
        """
        return jax.tree.map(lambda _: None, target), {}

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        """The trained model in Hugging Face's layout, for `--mode=export`.

        Args:
          variables: whole arrays on the host.
          chosen: what the evaluator chose on dev.

        Raises:
          UserError: it has no such form.
        """
        raise UserError("the models of this task have no form in Hugging Face's format.")

    def answers(self, split: Split, predict: Predict, top: int) -> list[dict[str, Any]]:
        """The answer to every example of a split as JSON values, for `--mode=predict`."""

    def page(self, path: Any, split: Split, answers: list[dict[str, Any]], title: str) -> None:
        """Writes an HTML page of the answers, where there is something to see."""

    def sample(self, split: Split, predict: Predict) -> np.ndarray | None:
        """A picture of some answers, uint8 [H, W, 3], for whoever watches the training."""
        return None

    def check_vocabulary(self, folder: Any) -> None:
        """Raises UserError where what another run fitted does not go with this one's weights."""

    def check_batch(self, size: int) -> None:
        """Raises UserError for a global batch that the model cannot be trained with."""

    def evaluator(self) -> Evaluator:
        """How a split is judged."""
