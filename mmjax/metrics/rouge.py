"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004), F with beta 1, by Google's `rouge_score`.

Its own tokenizer keeps Latin letters and digits alone, of Chinese nothing is left: tokens are the
caller's. Its longest common subsequence takes a minute for two texts of 10,000 characters, so that
ROUGE-L's is RapidFuzz's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from rapidfuzz.distance import LCSseq

KINDS = ("rouge1", "rouge2", "rougeL")
_SENTENCE_END = re.compile(r"(?<=[。！？!?；;\n])")


def rouge_f(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Callable[[str], list[str]],
    kinds: Sequence[str] = KINDS,
) -> Float[np.ndarray, "N K"]:
    """F in percent of each kind, for the reference with the highest one.

    Args:
      kinds: of `KINDS`, and "rougeLsum": the union of the common subsequences of each sentence,
        where sentences end as the marks 。！？； and ends of lines say.

    Raises ValueError for an example without a reference.
    """
    scorer = _scorer(tuple(kind for kind in kinds if kind != "rougeL"), tokenize)
    lines = _lines if "rougeLsum" in kinds else str
    rows = np.zeros((len(answers), len(kinds)))
    for row, answer, right in zip(rows, answers, references, strict=True):
        if not right:
            raise ValueError("an example without a reference: nothing to compare with")
        found = scorer.score_multi([lines(text) for text in right], lines(answer))
        of = {kind: score.fmeasure for kind, score in found.items()}
        if "rougeL" in kinds:
            of["rougeL"] = max(_rouge_l(tokenize(answer), tokenize(text)) for text in right)
        row[:] = [100 * of[kind] for kind in kinds]
    return rows


def _rouge_l(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return 0.0
    return 2 * LCSseq.similarity(answer, reference) / (len(answer) + len(reference))


@functools.cache
def _scorer(kinds: tuple[str, ...], tokenize: Callable[[str], list[str]]):
    from rouge_score import rouge_scorer, tokenizers  # takes seconds: it brings NLTK along

    class Tokens(tokenizers.Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return tokenize(text)

    return rouge_scorer.RougeScorer(list(kinds), tokenizer=Tokens())


def _lines(text: str) -> str:
    """A sentence per line, as "rougeLsum" reads them; the others do not see ends of lines."""
    return "\n".join(part.strip() for part in _SENTENCE_END.split(text) if part.strip())
