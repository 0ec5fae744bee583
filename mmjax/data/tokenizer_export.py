"""A tokenizer as the files from which `transformers` makes one that gives the same ids."""

from __future__ import annotations

import json
from typing import Any

from mmjax.data.tokenizer_families import TOKENIZER_JSON
from mmjax.data.tokenizer_files import TOKENIZER_CONFIG
from mmjax.data.tokenizers import Tokenizer

# What transformers calls a tokenizer that is its tokenizer.json and nothing else. The class of a
# family would build it anew from the vocabulary, and differently from one release to the next.
GENERIC_CLASS = "PreTrainedTokenizerFast"


def transformers_files(
    tokenizer: Tokenizer, max_length: int, *, truncation_side: str = "right"
) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json for `AutoTokenizer.from_pretrained`.

    Texts are given the special tokens that surround one: [CLS] and [SEP], or an end.

    Args:
      max_length: tokens of a text that is cut (`truncation=True`).
      truncation_side: where it loses them, "left" or "right".

    Raises:
      UserError: the tokenizer has no such form.
    """
    backend = tokenizer.to_tokenizers()
    special = {name: backend.id_to_token(i) for name, i in tokenizer.special_ids.items()}
    if backend.post_processor is None:
        backend.post_processor = _surrounding(tokenizer, special)
    settings = {
        "tokenizer_class": GENERIC_CLASS,
        "model_max_length": max_length,
        "truncation_side": truncation_side,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": not tokenizer.finds_special_tokens,
        **special,
    }
    return {
        TOKENIZER_JSON: backend.to_str().encode(),
        TOKENIZER_CONFIG: (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode(),
    }


def _surrounding(tokenizer: Tokenizer, special: dict[str, str]) -> Any:
    """What adds [CLS] before and [SEP] after a text, or else an end; None: there are none."""
    from tokenizers import processors

    names = ("cls_token", "sep_token") if {"cls_token", "sep_token"} <= set(special) else ()
    names = names or tuple({"eos_token"} & set(special))
    if not names:
        return None
    *first, last = (special[name] for name in names)
    return processors.TemplateProcessing(
        single=[*first, "$A", last],
        pair=[*first, "$A", last, "$B:1", f"{last}:1"],
        special_tokens=[(special[name], tokenizer.special_ids[name]) for name in names],
    )
