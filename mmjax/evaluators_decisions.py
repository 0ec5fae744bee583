"""How yes or no is judged where both matter: F1 of either class and of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from mmjax.data.index import ExampleIndex
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation, Evaluator, Predict
from mmjax.metrics.base import ratio
from mmjax.metrics.classification import average_precision, f1_parts, f1_variants


@dataclasses.dataclass(frozen=True)
class DecisionEvaluator(Evaluator):
    """Each example is decided once, with yes where that is the likelier.

    Attributes:
      predictor: gives log-odds of yes, [N].
      target: name of the examples' label, 1 for yes.
    """

    predictor: str
    target: str

    @property
    def metric_names(self) -> Sequence[str]:
        figures = ("f1", "f1@negative", "f1@macro", "f1@weighted", "f1@micro")
        return (*figures, "precision", "recall", "average_precision")

    def check(self, index: ExampleIndex, kept: Collection[str] = ()) -> None:
        """Raises UserError where every example has the same label: there is nothing to decide."""
        label = index.targets[self.target]
        if label.min() == label.max():
            raise UserError(
                f"all {len(label)} examples of this split have the same label, "
                f"{'yes' if label[0] else 'no'}: choose a dataset that has both."
            )

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Raises UserError as `check`."""
        self.check(index)
        label = index.targets[self.target]
        odds = predict(self.predictor, np.arange(len(index))).astype(np.float64)
        variants, parts = f1_variants(label, odds > 0), f1_parts(label, odds > 0)
        del parts["f1"]  # one of the variants
        always = f1_variants(label, np.ones(len(label), bool))
        return Evaluation(
            metrics={
                **{name: sums.value for name, sums in variants.items()},
                **{name: ratio(*part) for name, part in parts.items()},
                "average_precision": 100 * average_precision(label, odds),
            },
            samples={**variants, **parts},
            per_example={
                "label": label,
                # Without overflow for odds of any size.
                "probability": np.round(np.exp(-np.logaddexp(0, -odds)), 9),
                "dialogue": index.record,
            },
            groups=index.record,
            # Of who always says yes.
            chance={name: sums.value for name, sums in always.items()},
        )
