"""The data of a task in one run: its splits, each opened once, and what a model gives for them.

A mixture has these of each of its tasks, and one stream of training batches from all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmjax.data.index import ExampleIndex, build_index
from mmjax.data.loader import Loader
from mmjax.data.packed_plan import PackedPlan
from mmjax.data.packing import Packing
from mmjax.data.perturb import perturbed
from mmjax.data.perturb_photos import BLANK
from mmjax.data.plan import EvalPlan, TrainPlan
from mmjax.data.schema import Dialogue, Photo, Proposal, Turn
from mmjax.data.sources import ListSource, Source
from mmjax.data.splits import Split, index_split, open_source
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation, Predict
from mmjax.parallel import distributed
from mmjax.steps import make_predict_steps
from mmjax.tasks.base import Predictor, Task

# With everything that an example is made of: turns, an answer, a rewrite, and a shared photo with
# labels and pixels that was proposed too.
_ANY_PHOTO = Photo("any", ("c",), file=BLANK)
_ANY_DIALOGUE = Dialogue(
    "any",
    (Turn(1, "a"), Turn(0, "b", rewrites=("c",)), Turn(0, "", (_ANY_PHOTO,))),
    (Proposal((_ANY_PHOTO,), right=0, scores=(0.0,), alike=(1,), above=0, equal=1),),
)


def any_source(task: Task) -> Source:
    """One dialogue in which the task finds an example, for who needs shapes and no data."""
    # Both speakers are what the task asks for, so that somebody is asked and answers.
    roles = () if task.role is None else (task.role, task.role)
    return ListSource([dataclasses.replace(_ANY_DIALOGUE, roles=roles)])


def any_split(task: Task) -> Split:
    """`any_source` and its example.

    It is made as if something was taken away from the dialogue: an example of which nothing is left
    has the shapes of any other, and here no features of regions are at hand.
    """
    source = any_source(task)
    first = ExampleIndex(np.zeros(1, np.int64), np.zeros(1, np.int32), {}, {}, {})
    return Split(source, build_index(task, source, before=first))


class TaskData:
    """What a network system reads of one dataset, for one task."""

    def __init__(self, task: Task, options: Mapping[str, Any], mesh: jax.sharding.Mesh, seed: int):
        """
        Args:
          options: the sections "data", "train", "eval" and "loader" of the config, as dataclasses.
        """
        self.task, self._options, self._mesh, self._seed = task, options, mesh, seed
        self._splits: dict[str, Split] = {}
        self._sources: dict[str, Source] = {}
        # As the dataset has them, without what the task reads beside them.
        self._records: dict[str, Source] = {}
        self._perturbed: dict[tuple[str, str], Source] = {}

    def source(self, name: str) -> Source:
        """The records of a split."""
        if name not in self._sources:  # once: finding and listing photos takes its time
            data = self._options["data"]
            task = self.task
            self._records[name] = open_source(data, name, photos=task.photos, boxes=task.boxes)
            self._sources[name] = task.read_with(self._records[name], name)
        return self._sources[name]

    def split(self, name: str) -> Split:
        """Records and examples of a split."""
        if name not in self._splits:
            data = self._options["data"]
            self._splits[name] = index_split(self.task, data, self.source(name))
        return self._splits[name]

    @functools.cached_property
    def learned(self) -> Split:
        """What is learned from: the training split, and what the task makes of it besides."""
        own = self.source("train")
        source = self.task.learn_from(own)
        if source is own:
            return self.split("train")
        return index_split(self.task, self._options["data"], source)

    def any_split(self) -> Split:
        """A split of one dialogue, see `any_split`."""
        return any_split(self.task)

    def about(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """What `mmjax.report` must know of it; `sizes`: of the splits that were judged."""
        records = self._records["train"]
        splits = {**self._splits, "train": self.learned}
        sizes = {name: len(split.index) for name, split in sorted(splits.items())} | sizes
        return {
            "name": records.name.rpartition(":")[0],
            "fingerprint": records.fingerprint,
            "sizes": sizes,
        }

    def length(self, split: Split, feature: str | None = None) -> np.ndarray:
        """Of each example, by a feature (None: the task's first that varies in length); else 0."""
        feature = next(iter(self.task.ragged), None) if feature is None else feature
        return split.index.lengths.get(feature, np.zeros(len(split.index), np.int32))

    def eval_loader(self, split: Split, order: np.ndarray, fields: Sequence[str] | None) -> Loader:
        """Batches of the examples `order`, each once.

        Args:
          fields: the features to make; None: all.
        """
        return Loader(
            self.task,
            [split.source],
            [split.index],
            EvalPlan(order, self._options["eval"].batch_size),
            self._mesh,
            self._options["loader"],
            seed=self._seed,
            fields=fields,
        )

    def predict(self, variables: Any, split: Split) -> Predict:
        """The function (name of a predictor, example numbers) -> outputs, in that order.

        "NAME@PERTURBATION" is what it gives where the photos are perturbed, see `mmjax.evaluators`.
        """

        def predict(name: str, examples: np.ndarray) -> np.ndarray:
            name, _, change = name.partition("@")
            shown = self._changed(split, change) if change else split
            features = self._predictors[name].features
            # Examples of one length together need the least padding.
            length = self.length(split, features[0])
            order = examples[np.argsort(length[examples], kind="stable")]
            loader = self.eval_loader(shown, order, features)
            step = self._predict_steps[name]
            outputs = [
                jax.tree.map(distributed.to_host, step(variables, batch))
                for batch in loader.batches(0, loader.num_batches)
            ]
            position = np.empty(len(split.index), np.int64)
            position[examples] = np.arange(len(examples))
            return jax.tree.map(lambda *parts: _scattered(parts, position[order]), *outputs)

        return predict

    def evaluate(self, variables: Any, chosen: Mapping[str, float], split: Split) -> Evaluation:
        """The task's evaluator on a split, with what was chosen on dev."""
        evaluator = self.task.evaluator().reading(split.source)
        if chosen:
            evaluator = dataclasses.replace(evaluator, **chosen)
        return evaluator.evaluate(split.index, self.predict(variables, split))

    def check(self, name: str, kept: Collection[str] = ()) -> None:
        """Raises UserError where a split could not be judged, see `Evaluator.check`."""
        split = self.split(name)
        self.task.evaluator().reading(split.source).check(split.index, kept)

    def _changed(self, split: Split, change: str) -> Split:
        """A split under a perturbation of its photos, which leaves its examples what they are."""
        key = (split.source.fingerprint, change)
        if key not in self._perturbed:
            self._perturbed[key] = perturbed(split.source, change)
        return Split(self._perturbed[key], split.index)

    @functools.cached_property
    def _predictors(self) -> Mapping[str, Predictor]:
        return self.task.predictors()

    @functools.cached_property
    def _predict_steps(self) -> dict[str, Any]:
        functions = {name: predictor.fn for name, predictor in self._predictors.items()}
        return make_predict_steps(functions, self._mesh)


def remembered(predict: Predict) -> Predict:
    """The same, computing nothing twice."""
    by_number: dict[tuple[str, bytes], Any] = {}

    def found(name: str, examples: np.ndarray) -> Any:
        key = (name, examples.tobytes())
        if key not in by_number:
            by_number[key] = predict(name, examples)
        return by_number[key]

    return found


def train_loader(
    task: Task,
    parts: Sequence[TaskData],
    weights: Sequence[float] | None,
    options: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    seed: int,
) -> tuple[Loader, TrainPlan | PackedPlan]:
    """The endless shuffled batches of training splits, and the plan of them.

    Args:
      task: that learns from all of them; parts: whose they are, in the order of `task.parts`.
      weights: share of each in the examples; None where there is one.
      options, mesh, seed: as of `TaskData`.

    Raises:
      UserError: an example is longer than the rows that examples are to share.
    """
    splits = [data.learned for data in parts]
    train, packing = options["train"], None
    if train.packed_length is None:
        plan: TrainPlan | PackedPlan = TrainPlan(
            [len(split.index) for split in splits],
            train.global_batch_size,
            seed,
            weights,
            window=train.length_window,
            lengths=[data.length(split) for data, split in zip(parts, splits, strict=True)],
        )
    else:
        packing = task.packing(train.packed_length)
        plan = packed_plan(splits, packing, train.global_batch_size, seed, weights)
    loader = Loader(
        task,
        [split.source for split in splits],
        [split.index for split in splits],
        plan,
        mesh,
        options["loader"],
        seed=seed,
        packing=packing,
        featurizers=list(task.parts.values()),
    )
    return loader, plan


def packed_plan(
    splits: Sequence[Split],
    packing: Packing,
    batch_size: int,
    seed: int,
    weights: Sequence[float] | None = None,
) -> PackedPlan:
    """Rows of the splits' examples.

    Raises:
      UserError: one does not fit into a row.
    """
    lengths = [
        np.stack([split.index.lengths[name] for name in packing.limits], axis=1) for split in splits
    ]
    for split, found in zip(splits, lengths, strict=True):
        for (name, limit), longest in zip(packing.limits.items(), found.max(axis=0), strict=True):
            if longest > limit:
                raise UserError(
                    f"{split.source.name}: the longest example has {longest} of {name!r}, and a "
                    f"row holds {limit}: raise config.train.packed_length (now "
                    f"{packing.row_length}), or lower what the task keeps of a dialogue "
                    "(config.task.max_length)."
                )
    return PackedPlan(lengths, tuple(packing.limits.values()), batch_size, seed, weights)


def _scattered(parts: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The rows of arrays one after another, each put where `rows` says; what is over is dropped.

    Where other axes differ in length (words of a text), the shorter arrays are filled up with 0.
    """
    shape = np.max([part.shape[1:] for part in parts], axis=0).astype(int)
    result = np.zeros((len(rows), *shape), parts[0].dtype)
    start = 0
    for part in parts:
        into = rows[start : start + len(part)]
        result[(into, *(slice(n) for n in part.shape[1:]))] = part[: len(into)]
        start += len(part)
    return result
