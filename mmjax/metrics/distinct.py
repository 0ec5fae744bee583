"""Distinct-n (Li et al., 2016): how many different n-grams a system uses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt64

Tokens = Sequence[str]


def ngram_hashes(answers: Sequence[Tokens], n: int) -> UInt64[np.ndarray, " G"]:
    """A number for each n-gram of each answer, equal for equal ones on every machine."""
    found = [
        int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
        for answer in answers
        # A sign that no text is made of: for private use, and tokens hold no such.
        for gram in ("\ue000".join(answer[k : k + n]) for k in range(len(answer) - n + 1))
    ]
    return np.array(found, np.uint64)


def distinct(hashes: UInt64[np.ndarray, " G"], total: int | None = None) -> float:
    """Different n-grams in percent of all n-grams (None) or of `total`; 0 where there are none.

    The number of different ones does not grow with that of the answers: the figure falls with the
    size of a corpus, and only sets of one size can be compared.

    Args:
      total: the number of tokens, in the definition of the DSTC10 scripts.
    """
    total = len(hashes) if total is None else total
    return 100 * len(np.unique(hashes)) / total if total else 0.0


def own_distinct(answers: Sequence[Tokens], n: int) -> Float[np.ndarray, " N"]:
    """Distinct-n of each answer alone, in percent; 0 for one of less than n tokens."""
    return np.array([distinct(ngram_hashes([answer], n)) for answer in answers])
