"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004), F with beta 1, by Google's `rouge_score`.

Its own tokenizer keeps Latin letters and digits alone, of Chinese nothing is left: tokens are the
caller's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

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
    scorer = _scorer(tuple(kinds), tokenize)
    lines = _lines if "rougeLsum" in kinds else str
    rows = np.zeros((len(answers), len(kinds)))
    for row, answer, right in zip(rows, answers, references, strict=True):
        if not right:
            raise ValueError("an example without a reference: nothing to compare with")
        found = scorer.score_multi([lines(text) for text in right], lines(answer))
        row[:] = [100 * found[kind].fmeasure for kind in kinds]
    return rows


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
