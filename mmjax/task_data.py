"""The data of a task in one run: its splits, each opened once, and what a model gives for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmjax.data.index import build_index
from mmjax.data.loader import Loader
from mmjax.data.packed_plan import PackedPlan
from mmjax.data.packing import Packing
from mmjax.data.perturb import BLANK, perturbed
from mmjax.data.plan import EvalPlan, TrainPlan
from mmjax.data.schema import Dialogue, Photo, Proposal, Turn
from mmjax.data.sources import ListSource, Source
from mmjax.data.splits import Split, index_split, open_source
from mmjax.errors import UserError
from mmjax.evaluators import Predict
from mmjax.parallel import distributed
from mmjax.steps import make_predict_steps
from mmjax.tasks.base import Predictor, Task

# With everything that an example is made of: turns, an answer, a rewrite, and a shared photo with
# labels and pixels that was proposed too.
_ANY_PHOTO = Photo("any", ("c",), file=BLANK)
ANY_DIALOGUE = Dialogue(
    "any",
    (Turn(1, "a"), Turn(0, "b", rewrites=("c",)), Turn(0, "", (_ANY_PHOTO,))),
    (Proposal((_ANY_PHOTO,), right=0, scores=(0.0,), alike=(1,), above=0, equal=1),),
)


class TaskData:
    """What a network system reads."""

    def __init__(self, task: Task, options: Mapping[str, Any], mesh: jax.sharding.Mesh, seed: int):
        """
        Args:
          options: the sections "data", "train", "eval" and "loader" of the config, as dataclasses.
        """
        self._task, self._options, self._mesh, self._seed = task, options, mesh, seed
        self._splits: dict[str, Split] = {}
        self._sources: dict[str, Source] = {}
        # As the dataset has them, without what the task reads beside them.
        self._records: dict[str, Source] = {}
        self._perturbed: dict[tuple[str, str], Source] = {}

    def source(self, name: str) -> Source:
        """The records of a split."""
        if name not in self._sources:  # once: finding and listing photos takes its time
            data = self._options["data"]
            task = self._task
            self._records[name] = open_source(data, name, photos=task.photos, boxes=task.boxes)
            self._sources[name] = task.read_with(self._records[name], name)
        return self._sources[name]

    def split(self, name: str) -> Split:
        """Records and examples of a split."""
        if name not in self._splits:
            data = self._options["data"]
            self._splits[name] = index_split(self._task, data, self.source(name))
        return self._splits[name]

    def any_split(self) -> Split:
        """A split of one dialogue, for who needs shapes and no data."""
        source = ListSource([ANY_DIALOGUE])
        return Split(source, build_index(self._task, source))

    def about(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """What `mmjax.report` must know of it; `sizes`: of the splits that were judged."""
        records = self._records["train"]
        sizes = {name: len(split.index) for name, split in sorted(self._splits.items())} | sizes
        return {
            "name": records.name.rpartition(":")[0],
            "fingerprint": records.fingerprint,
            "sizes": sizes,
        }

    def length(self, split: Split, feature: str | None = None) -> np.ndarray:
        """Of each example, by a feature (None: the task's first that varies in length); else 0."""
        feature = next(iter(self._task.ragged), None) if feature is None else feature
        return split.index.lengths.get(feature, np.zeros(len(split.index), np.int32))

    def train_loader(self, split: Split) -> tuple[Loader, TrainPlan | PackedPlan]:
        """The endless shuffled batches of a training split, and the plan of them.

        Raises:
          UserError: an example is longer than the rows that examples are to share.
        """
        train, packing = self._options["train"], None
        if train.packed_length is None:
            plan: TrainPlan | PackedPlan = TrainPlan(
                [len(split.index)],
                train.global_batch_size,
                self._seed,
                window=train.length_window,
                lengths=[self.length(split)],
            )
        else:
            packing = self._task.packing(train.packed_length)
            plan = packed_plan(split, packing, train.global_batch_size, self._seed)
        loader = Loader(
            self._task,
            [split.source],
            [split.index],
            plan,
            self._mesh,
            self._options["loader"],
            seed=self._seed,
            packing=packing,
        )
        return loader, plan

    def eval_loader(self, split: Split, order: np.ndarray, fields: Sequence[str] | None) -> Loader:
        """Batches of the examples `order`, each once.

        Args:
          fields: the features to make; None: all.
        """
        return Loader(
            self._task,
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

    def _changed(self, split: Split, change: str) -> Split:
        """A split under a perturbation of its photos, which leaves its examples what they are."""
        key = (split.source.fingerprint, change)
        if key not in self._perturbed:
            self._perturbed[key] = perturbed(split.source, change)
        return Split(self._perturbed[key], split.index)

    @functools.cached_property
    def _predictors(self) -> Mapping[str, Predictor]:
        return self._task.predictors()

    @functools.cached_property
    def _predict_steps(self) -> dict[str, Any]:
        functions = {name: predictor.fn for name, predictor in self._predictors.items()}
        return make_predict_steps(functions, self._mesh)


def packed_plan(split: Split, packing: Packing, batch_size: int, seed: int) -> PackedPlan:
    """Rows of a split's examples.

    Raises:
      UserError: one does not fit into a row.
    """
    lengths = np.stack([split.index.lengths[name] for name in packing.limits], axis=1)
    for (name, limit), longest in zip(packing.limits.items(), lengths.max(axis=0), strict=True):
        if longest > limit:
            raise UserError(
                f"{split.source.name}: the longest example has {longest} of {name!r}, and a row "
                f"holds {limit}: raise config.train.packed_length (now {packing.row_length}), or "
                "lower what the task keeps of a dialogue (config.task.max_length)."
            )
    return PackedPlan([lengths], tuple(packing.limits.values()), batch_size, seed)


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
