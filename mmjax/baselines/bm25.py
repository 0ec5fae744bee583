"""BM25 over label lists or any other short documents: the baseline every retriever has to beat.

The scores are the `bm25s` library's; this file decides what a token is and answers where the
library has no answer: empty documents, queries of unknown words, an empty pool.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import bm25s
import numpy as np
from jaxtyping import Float

from mmjax.errors import UserError

# It announces every index that it builds.
logging.getLogger("bm25s").setLevel(logging.WARNING)

VARIANTS = ("lucene", "robertson", "atire", "bm25+", "bm25l")


class Bm25:
    """BM25 scores of documents for queries (Robertson and Zaragoza, 2009; variants as in bm25s).

    Args:
      variant: form of idf and term weight, one of VARIANTS.
      k1, b: saturation of term counts (>= 0), weight of document length in [0, 1].
      token_pattern: regular expression; its matches in the lower-cased text are the tokens. The
        default drops everything but ASCII letters and digits; for Chinese, one token per character,
        use for example r"[a-z0-9]+|[^\\W_a-z0-9]".

    Raises UserError for an unknown variant.
    """

    def __init__(
        self,
        variant: str = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
        token_pattern: str = r"[a-z0-9]+",
    ):
        if variant not in VARIANTS:
            raise UserError(f"Unknown BM25 variant {variant!r}: use one of {', '.join(VARIANTS)}.")
        self.variant, self.k1, self.b, self.token_pattern = variant, k1, b, token_pattern
        self._tokens = re.compile(token_pattern)
        self._vocabulary: dict[str, int] = {}
        self._size = 0

    def fit(self, documents: Sequence[str]) -> Bm25:
        """Indexes the pool. An empty document is allowed and scores 0 as far as its variant does.

        Raises UserError for an empty pool.
        """
        if not documents:
            raise UserError("BM25 has no documents to search: the candidate pool is empty.")
        self._size = len(documents)
        # Own ids, in order of first appearance: the library guesses the kind of its input from the
        # first document, which may be empty.
        self._vocabulary = {}
        ids = [
            [self._vocabulary.setdefault(t, len(self._vocabulary)) for t in self._split(document)]
            for document in documents
        ]
        self._index = bm25s.BM25(method=self.variant, k1=self.k1, b=self.b)
        if self._vocabulary:
            self._index.index(
                (ids, self._vocabulary), create_empty_token=False, show_progress=False
            )
        return self

    def scores(self, queries: Sequence[str]) -> Float[np.ndarray, "Q P"]:
        """float32 scores of every document for every query.

        A repeated query word counts each time, an unknown one not at all; a query without known
        words scores every document 0.
        """
        if not self._size:
            raise ValueError("scores() before fit()")
        result = np.zeros((len(queries), self._size), np.float32)
        for row, query in zip(result, queries, strict=True):
            known = [self._vocabulary[t] for t in self._split(query) if t in self._vocabulary]
            if known:
                row[:] = self._index.get_scores_from_ids(known)
        return result

    def _split(self, text: str) -> list[str]:
        return self._tokens.findall(text.lower())
