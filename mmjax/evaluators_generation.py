"""How written texts are judged: against what people wrote, and by how likely that was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Float

from mmjax.data.index import ExampleIndex
from mmjax.data.perturb import OTHER_LABELS, perturbed
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import Source
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation, Evaluator, Predict
from mmjax.evaluators_slots import SLOT_FIGURES, Slots, find_slots, with_slots
from mmjax.metrics.bootstrap import Sums
from mmjax.metrics.generation import GenerationMetric, answers


@dataclasses.dataclass(frozen=True)
class GenerationEvaluator(Evaluator):
    """Figures of the predictor "written", ids [N, T], and the perplexity of people's texts, from
    "log_p", [N, 2]: the log-probability of each, and its number of tokens.

    The perplexity is exp(-sum of log-probabilities / tokens) over all examples, ends included.
    What is judged of slots: see `mmjax.evaluators_slots`.

    Attributes:
      decode: ids [T] -> text.
      references: (dialogue, sub) -> what people wrote.
      source: the records of the split that is judged.
      at_most: how many examples are written to, spread over the split; None: all.
      in_training_at_most: the same while a run is in training.
      read: (dialogue, sub) -> the turns that are read, to judge slots too; None: they are not.
      sees: whether the photos are seen.
    """

    decode: Callable[[np.ndarray], str]
    references: Callable[[Dialogue, int], Sequence[str]]
    source: Source | None = None
    at_most: int | None = None
    in_training_at_most: int | None = None
    read: Callable[[Dialogue, int], Sequence[Turn]] | None = None
    sees: bool = False

    @property
    def metric_names(self) -> Sequence[str]:
        slots = SLOT_FIGURES if self.read is not None else ()
        return (*GenerationMetric().names, "perplexity", *slots)

    def reading(self, source: Source) -> GenerationEvaluator:
        return dataclasses.replace(self, source=source)

    def in_training(self) -> GenerationEvaluator:
        return dataclasses.replace(self, at_most=self.in_training_at_most)

    def check(self, index: ExampleIndex, kept: Collection[str] = ()) -> None:
        """Raises UserError where slots are to be judged and there is none, or none that a run in
        training writes to, or the photos that are seen cannot be exchanged."""
        if self.read is None:
            return
        self._slots(index, np.arange(len(index)))
        some = self.in_training()._written_to(len(index))
        if set(SLOT_FIGURES) & set(kept) and self._slots(index, some) is None:
            raise UserError(
                f"none of the {len(some)} examples of {self.source.name} that are written to in "
                "training has a slot, and config.eval.metric asks for their figures: raise "
                "config.task.written_in_training, or keep states by another metric."
            )
        if self.sees:
            try:
                perturbed(self.source, OTHER_LABELS)
            except UserError as error:
                raise UserError(f"config.task.slots in {self.source.name}: {error}") from error

    def evaluate(self, index: ExampleIndex, predict: Predict) -> Evaluation:
        """Without the figures of slots where some examples alone are written to (`at_most`), and
        none of them has one. Raises UserError as `check`."""
        everything, some = np.arange(len(index)), self._written_to(len(index))
        record, sub = index.record[some], index.sub[some]
        texts = [self.decode(ids) for ids in predict("written", some)]
        judged = judged_texts(texts, self._references(record, sub), record, sub)
        log_p = predict("log_p", everything).astype(np.float64)
        likely = Sums(log_p, perplexity)
        slots = None if self.read is None else self._slots(index, some)
        if slots is not None:
            exchanged = predict(f"log_p@{OTHER_LABELS}", some) if self.sees else log_p[some]
            lower = exchanged[:, 0] < log_p[some, 0]
            judged = with_slots(judged, slots, texts, lower)
        more = {"perplexity": likely} if len(some) == len(everything) else {}
        return dataclasses.replace(
            judged,
            metrics={**judged.metrics, "perplexity": likely.value},
            samples={**judged.samples, **more},
        )

    def _written_to(self, count: int) -> np.ndarray:
        """Which of so many examples."""
        if self.at_most is None or self.at_most >= count:
            return np.arange(count)
        return np.unique(np.linspace(0, count - 1, self.at_most).astype(np.int64))

    def _slots(self, index: ExampleIndex, some: np.ndarray) -> Slots | None:
        """Of some examples, None where none of them has one; of all of them there must be one."""
        record, sub = index.record[some], index.sub[some]
        found = find_slots(self.source, record, sub, self.read, self.references)
        if found is None and len(some) == len(index):
            raise UserError(
                f"no answer of {self.source.name} names what a photo before it shows, so that "
                "there are no slots to judge: leave config.task.slots=False."
            )
        return found

    def _references(self, record: np.ndarray, sub: np.ndarray) -> list[Sequence[str]]:
        if self.source is None:
            raise ValueError("the evaluator has no records to read references from")
        return [
            self.references(self.source[int(i)], int(k)) for i, k in zip(record, sub, strict=True)
        ]


def judged_texts(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    record: np.ndarray,
    sub: np.ndarray,
) -> Evaluation:
    """The figures of `GenerationMetric` for texts that were written or chosen.

    Args:
      references: to each, what people wrote; one or more.
      record, sub: int [N], whose example each is; those of a dialogue are not independent.
    """
    metric = GenerationMetric()
    state = metric.update(metric.init(), answers(texts, references), {})
    return Evaluation(
        metrics=metric.compute(state),
        samples=metric.samples(state),
        per_example={
            "bleu": state.bleu,
            "rougeL": np.round(state.rouge[:, -1], 6),
            "exact": state.exact,
            "dialogue": record,
        },
        groups=record,
        rows=(record, sub),
    )


def perplexity(sums: Float[np.ndarray, "D 2"]) -> Float[np.ndarray, " D"]:
    """exp(-log-probability / tokens) of each row of sums."""
    return np.exp(-sums[:, 0] / np.maximum(sums[:, 1], 1))
