"""Generated texts against what people wrote: BLEU, ROUGE, exact match, distinct-n.

Tokens are characters (`mmjax.data.chinese.characters`), what is masked being one, and words for the
figures "...@word". Several references: BLEU takes matches from all of them, ROUGE and exact match
the best one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt64

from mmjax.data.chinese import characters, words
from mmjax.metrics.base import without_padding
from mmjax.metrics.bleu import bleu_counts, bleu_sample, sentence_bleu, single_order_bleu
from mmjax.metrics.bootstrap import Sample
from mmjax.metrics.distinct import distinct, ngram_hashes, own_distinct
from mmjax.metrics.rouge import KINDS, rouge_f

_DISTINCT = (1, 2)
_SINGLE_ORDERS = (2, 3, 4)


class Answers(NamedTuple):
    """Attributes:
    text: what the system says, an array of objects [N].
    references: what people said, tuples of texts, likewise; each has one or more.
    """

    text: np.ndarray
    references: np.ndarray


def answers(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Answers:
    """Predictions of a batch for `GenerationMetric`."""
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts and {len(references)} lists of references")
    found = Answers(np.empty(len(texts), object), np.empty(len(texts), object))
    for k, (text, right) in enumerate(zip(texts, references, strict=True)):
        found.text[k], found.references[k] = text, tuple(right)
    return found


class Generated(NamedTuple):
    """The state: what the figures are computed from.

    Attributes:
      bleu, bleu_word: see `bleu_counts`.
      rouge: F in percent of ROUGE-1, ROUGE-2 and ROUGE-L.
      exact: 1 where the answer is one of the references but for white space.
      own: distinct-1 and distinct-2 of each answer alone, in percent.
      unigrams, bigrams: of all answers, one after the other: not a row per example, but as many as
        the answers have characters.
    """

    bleu: Int[np.ndarray, "N S"]
    bleu_word: Int[np.ndarray, "N S"]
    rouge: Float[np.ndarray, "N 3"]
    exact: Float[np.ndarray, " N"]
    own: Float[np.ndarray, "N 2"]
    unigrams: UInt64[np.ndarray, " G"]
    bigrams: UInt64[np.ndarray, " H"]


@dataclass(frozen=True)
class GenerationMetric:
    """Percent all of them, but for `length` and `reference_length`, which are means of characters.

    "bleu", "bleu@word": BLEU-4 of the corpus. "bleu@mean": mean over answers of each one's own;
    "bleu2@single", "bleu3@single", "bleu4@single": likewise, of n-grams of one order, smoothed as
    in MOD's scripts: neither is to be compared with a corpus' figure. "rouge1", "rouge2", "rougeL":
    mean F. "exact": share of answers that are a reference. "distinct1", "distinct2": different
    n-grams of all n-grams; "distinct2@tokens": of all tokens (the two are the same for n = 1);
    "distinct1@mean", "distinct2@mean": mean over answers.

    Predictions are the Answers of a batch; `batch["weight"]`, where given, is 0 for padding.
    """

    reduction: Literal["gather"] = "gather"

    @property
    def names(self) -> Sequence[str]:
        spread = ("distinct1", "distinct2", "distinct2@tokens", "distinct1@mean", "distinct2@mean")
        lengths = ("length", "reference_length")
        return (*_BLEU, *_OWN_BLEU, *KINDS, "exact", *spread, *lengths)

    def init(self) -> Generated:
        return self._state(answers([], []))

    def update(self, state: Generated, predictions: Answers, batch: Mapping[str, Any]) -> Generated:
        return self.merge(state, self._state(without_padding(predictions, batch)))

    def merge(self, a: Generated, b: Generated) -> Generated:
        return jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)

    def compute(self, state: Generated) -> dict[str, float]:
        """Raises ValueError where there are no answers."""
        if len(state.exact) == 0:
            raise ValueError("no answers: there is nothing to judge")
        found = {
            **{name: bleu_sample(getattr(state, of)).value for name, of in _BLEU.items()},
            **{name: float(own(state.bleu).mean()) for name, own in _OWN_BLEU.items()},
            **dict(zip(KINDS, state.rouge.mean(0).tolist(), strict=True)),
            "exact": 100 * float(state.exact.mean()),
            "distinct1": distinct(state.unigrams),
            "distinct2": distinct(state.bigrams),
            "distinct2@tokens": distinct(state.bigrams, len(state.unigrams)),
        }
        found |= {f"distinct{n}@mean": x for n, x in enumerate(state.own.mean(0).tolist(), 1)}
        lengths = state.bleu[:, -2:].mean(0).tolist()
        return found | dict(zip(("length", "reference_length"), lengths, strict=True))

    def samples(self, state: Generated) -> dict[str, Sample]:
        """What intervals are drawn from.

        Distinct-n over the corpus has none: a draw with repetitions has fewer different n-grams
        than any sample of that size, so that the interval would lie below the figure.
        """
        return {
            **{name: bleu_sample(getattr(state, of)) for name, of in _BLEU.items()},
            **{name: own(state.bleu) for name, own in _OWN_BLEU.items()},
            **{kind: state.rouge[:, k] for k, kind in enumerate(KINDS)},
            "exact": 100 * state.exact,
            **{f"distinct{n}@mean": state.own[:, n - 1] for n in _DISTINCT},
        }

    def _state(self, said: Answers) -> Generated:
        own = [characters(text) for text in said.text]
        right = [[characters(text) for text in texts] for texts in said.references]
        in_words = [words(text) for text in said.text]
        right_in_words = [[words(text) for text in texts] for texts in said.references]
        return Generated(
            bleu=bleu_counts(own, right),
            bleu_word=bleu_counts(in_words, right_in_words),
            rouge=rouge_f(said.text, said.references, characters) if len(own) else _NO_ROUGE,
            exact=np.array([a in r for a, r in zip(own, right, strict=True)], np.float64),
            own=np.stack([own_distinct(own, n) for n in _DISTINCT], 1),
            unigrams=ngram_hashes(own, 1),
            bigrams=ngram_hashes(own, 2),
        )


# Figure -> field of the state.
_BLEU = {"bleu": "bleu", "bleu@word": "bleu_word"}
# Figure -> that of each answer alone, from its counts.
_OWN_BLEU: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "bleu@mean": sentence_bleu,
    **{f"bleu{n}@single": functools.partial(single_order_bleu, order=n) for n in _SINGLE_ORDERS},
}
_NO_ROUGE = np.zeros((0, len(KINDS)))
