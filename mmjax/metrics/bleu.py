"""BLEU of a corpus (Papineni et al., 2002), from counts per example, so that it can be resampled.

Counting and the figure are sacrebleu's; tokens are the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Real
from sacrebleu.metrics import BLEU

from mmjax.metrics.bootstrap import Sums

ORDER = 4
Tokens = Sequence[str]
Smoothing = Literal["exp", "none", "method1"]
# sacrebleu's name and value of each; "exp" and "none" have none.
_SACREBLEU = {"exp": ("exp", None), "none": ("none", None), "method1": ("floor", 0.1)}


def bleu_counts(
    answers: Sequence[Tokens], references: Sequence[Sequence[Tokens]], order: int = ORDER
) -> Int[np.ndarray, "N S"]:
    """Per example: matches of 1 to `order` grams, numbers of them in the answer, two lengths.

    S = 2 x order + 2; the last column is the length of the reference that is closest to the answer
    in length (of two the shorter).

    Raises ValueError for an example without a reference.
    """
    scorer = BLEU(tokenize="none", max_ngram_order=order, effective_order=True)
    rows = np.zeros((len(answers), 2 * order + 2), np.int64)
    for row, answer, right in zip(rows, answers, references, strict=True):
        if not right:
            raise ValueError("an example without a reference: nothing to compare with")
        # As numbers: sacrebleu cuts at white space, of which Unicode has many kinds.
        numbers: dict[str, str] = {}
        texts = [
            " ".join(numbers.setdefault(token, str(len(numbers))) for token in tokens)
            for tokens in (answer, *right)
        ]
        found = scorer.sentence_score(texts[0], texts[1:])
        row[:] = (*found.counts, *found.totals, found.sys_len, found.ref_len)
    return rows


def corpus_bleu(
    sums: Real[np.ndarray, "D S"],
    smoothing: Smoothing = "exp",
    *,
    effective_order: bool = False,
    single_order: int | None = None,
) -> Float[np.ndarray, " D"]:
    """BLEU in percent of each row of summed counts.

    Args:
      smoothing: where an order has no match: "exp" halves the precision with each such order
        (sacrebleu's default), "none" makes BLEU 0, "method1" counts 0.1 matches (Chen and Cherry,
        2014) and, as NLTK does, one n-gram where there is none.
      effective_order: orders of which the answers have no n-gram are left out; else BLEU is 0, but
        for "method1".
      single_order: the weight of this order is 1 and that of the others 0: the precision of its
        n-grams times the brevity penalty. None: all have the same.

    Raises ValueError for an order that was not counted.
    """
    order = (sums.shape[1] - 2) // 2
    if single_order is not None and not 1 <= single_order <= order:
        raise ValueError(f"there is no order {single_order}: 1 to {order} were counted")
    method, value = _SACREBLEU[smoothing]
    figures = []
    for row in np.asarray(sums):
        total = row[order : 2 * order]
        if smoothing == "method1" and not effective_order:
            total = np.maximum(total, 1)
        found = BLEU.compute_bleu(
            correct=row[:order].tolist(),
            total=total.tolist(),
            sys_len=int(row[-2]),
            ref_len=int(row[-1]),
            smooth_method=method,
            smooth_value=value,
            effective_order=effective_order,
            max_ngram_order=order,
        )
        alone = single_order is not None
        figures.append(found.bp * found.precisions[single_order - 1] if alone else found.score)
    return np.asarray(figures, np.float64)


def bleu_sample(counts: Int[np.ndarray, "N S"]) -> Sums:
    """What the interval of a corpus' BLEU is drawn from."""
    return Sums(counts, corpus_bleu)


def single_order_bleu(counts: Int[np.ndarray, "N S"], order: int) -> Float[np.ndarray, " N"]:
    """BLEU of each example alone, in percent, of one order and smoothed by "method1", as the
    scripts of DSTC10's MOD count it."""
    return corpus_bleu(counts, "method1", single_order=order)


def sentence_bleu(counts: Int[np.ndarray, "N S"]) -> Float[np.ndarray, " N"]:
    """BLEU of each example alone, in percent, smoothed, of the orders that the answer has; its mean
    is not the corpus' BLEU."""
    return corpus_bleu(counts, effective_order=True)
