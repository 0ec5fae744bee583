"""A vocabulary of whole words, as VSE++ and SCAN read their captions.

Their code lowers a text and cuts it with NLTK's `word_tokenize`. Here the same conventions (those
of the Penn Treebank) are one regular expression of the `tokenizers` library, so that a vocabulary
is a tokenizer.json like any other: no further package, and nothing to download. Unlike NLTK's, it
needs no guess at where sentences end, and cuts a chat's "park.then" and "nice!!" too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from mmjax.data.tokenizer_families import TOKENIZER_JSON
from mmjax.data.tokenizer_files import TOKENIZER_CONFIG, clean
from mmjax.errors import UserError

PAD, START, END, UNK = "<pad>", "<start>", "<end>", "<unk>"  # their numbers are 0 to 3

# Endings: "do" "n't", "it" "'s"; and two words in one: "wan" "na". Words with what joins their
# parts: "10:30", "t-shirt", "o'clock". Anything else character by character, but for dots and
# dashes in a row.
_END = r"(?![\p{L}\p{N}])"
_ENDING = rf"(?:n't|'(?:s|m|d|ll|re|ve)){_END}"
_TWO = "|".join(
    rf"{first}(?={second}{_END})"
    for first, second in (
        *(("can", "not"), ("gim", "me"), ("gon", "na")),
        *(("got", "ta"), ("lem", "me"), ("wan", "na")),
    )
)
_LETTER = r"[\p{L}\p{M}\p{N}_]"
_WORD = rf"{_LETTER}(?:(?!{_ENDING})(?:{_LETTER}|[.,:](?=\p{{N}})|[-/'](?=[\p{{L}}\p{{N}}])))*"
WORDS = rf"{_ENDING}|{_TWO}|{_WORD}|\.\.+|--+|[^\s]"


def word_vocabulary(texts: Iterable[str], min_count: int) -> dict[str, bytes]:
    """The files of a tokenizer whose words occur at least so often, the most frequent first.

    Raises UserError where there is no such word.
    """
    from tokenizers import Tokenizer, models

    cutter = _cutter()
    counts: Counter[str] = Counter()
    for text in texts:
        normal = cutter.normalizer.normalize_str(clean(text))
        counts.update(word for word, _ in cutter.pre_tokenizer.pre_tokenize_str(normal))
    frequent = [word for word, count in counts.items() if count >= min_count]
    if not frequent:
        raise UserError(
            f"No word occurs {min_count} times in the {counts.total():,} words of the training "
            "texts, so that there is no vocabulary: set config.model.min_count lower, or train on "
            "more dialogues."
        )
    frequent.sort(key=lambda word: (-counts[word], word))
    vocabulary = {word: number for number, word in enumerate((PAD, START, END, UNK, *frequent))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer, tokenizer.pre_tokenizer = cutter.normalizer, cutter.pre_tokenizer
    settings = {
        "pad_token": PAD,
        "unk_token": UNK,
        **dict.fromkeys(("bos_token", "cls_token"), START),
        **dict.fromkeys(("eos_token", "sep_token"), END),
    }
    return {
        TOKENIZER_JSON: tokenizer.to_str(pretty=False).encode(),
        TOKENIZER_CONFIG: json.dumps(settings, sort_keys=True).encode(),
    }


def _cutter() -> Any:
    """A tokenizer that can lower and cut, and knows no word."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    cutter = Tokenizer(models.WordLevel({UNK: 0}, unk_token=UNK))
    cutter.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace("’", "'"), normalizers.Lowercase()]
    )
    cutter.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    return cutter
