"""A vocabulary of characters, for Chinese: what a reader sees as one sign is one token.

Masked things ("[数字x]") and emoticons are whole where they are frequent (`mmjax.data.chinese`);
what is not in the vocabulary is spelled in bytes, so that every text can be read and written. A run
of white space is one token. It is a tokenizer.json of the `tokenizers` library like any other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from mmjax.data.chinese import PIECE
from mmjax.data.tokenizer_families import TOKENIZER_JSON
from mmjax.data.tokenizer_files import TOKENIZER_CONFIG, clean
from mmjax.errors import UserError

# No piece of a text is one of these: written out there, they are characters.
PAD, UNK, BEGIN, END = "<pad>", "<unk>", "<s>", "</s>"  # their numbers are 0 to 3
SPACE = "▁"
MIN_VOCAB = 300  # the bytes and special tokens, and a few characters


def character_vocabulary(texts: Iterable[str], vocab_size: int) -> dict[str, bytes]:
    """The files of a tokenizer of at most `vocab_size` tokens, the most frequent pieces first.

    Raises UserError where there is no text, and for a vocabulary below `MIN_VOCAB`.
    """
    from tokenizers import Tokenizer, decoders, models

    if vocab_size < MIN_VOCAB:
        raise UserError(
            f"vocab_size={vocab_size} is too small: bytes and special tokens alone need "
            f"{MIN_VOCAB}. Give a larger one."
        )
    cutter, counts = _cutter(), Counter()
    for text in texts:
        normal = cutter.normalizer.normalize_str(clean(text))
        counts.update(piece for piece, _ in cutter.pre_tokenizer.pre_tokenize_str(normal))
    if not counts.keys() - {SPACE}:
        raise UserError("There is no text to make a vocabulary of: every text is empty.")
    first = [PAD, UNK, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE]
    frequent = sorted(counts.keys() - {SPACE}, key=lambda piece: (-counts[piece], piece))
    pieces = [*first, *frequent[: vocab_size - len(first)]]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        [],  # nothing is joined: a piece is looked up as a whole, or falls into characters
        ignore_merges=True,
        byte_fallback=True,
        unk_token=UNK,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = cutter.normalizer, cutter.pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    settings = {
        "pad_token": PAD,
        "unk_token": UNK,
        **dict.fromkeys(("bos_token", "cls_token"), BEGIN),
        **dict.fromkeys(("eos_token", "sep_token"), END),
    }
    return {
        TOKENIZER_JSON: tokenizer.to_str(pretty=False).encode(),
        TOKENIZER_CONFIG: json.dumps(settings, sort_keys=True).encode(),
    }


def _cutter() -> Any:
    """A tokenizer that can cut, and knows no piece."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    cutter = Tokenizer(models.BPE())
    cutter.normalizer = normalizers.Replace(Regex(r"\s+"), SPACE)
    cutter.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), "isolated")
    return cutter
