"""Token ids equal those of `transformers` for the same folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import transformers

from mmjax.data.tokenizers import load_tokenizer

HARD_CASES = [
    "",
    "   ",
    "\n\t",
    "😀😀 so happy 👨‍👩‍👧!!",
    "我今天和狗去了湖边，真的！",
    "Café naïve ÀÉÎ",
    "a" * 300,
    "[CLS] typed by a user [SEP] [MASK]",
    "don't... e-mail@me.com #1 $5.00",
    "\u0000control\u200bzero width\ufeff",
    "tel ١٢٣ नमस्ते",
]


@pytest.fixture(params=["tokenizer.json", "vocab.txt"])
def folder(request, minilm_folder, tmp_path):
    """The real folder, with only one of the two forms of its tokenizer."""
    for name in (request.param, "tokenizer_config.json"):
        shutil.copy(minilm_folder / name, tmp_path / name)
    return tmp_path


def test_ids_of_photochat_messages_and_hard_cases(folder, minilm_folder, shared_data):
    dialogues = json.loads((shared_data("photochat") / "dev" / "dev_00.json").read_text())
    messages = [turn["message"] for dialogue in dialogues for turn in dialogue["dialogue"]]
    assert len(messages) > 600
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    ours = load_tokenizer(folder)
    for text in [*messages[:600], *HARD_CASES]:
        expected = theirs(text, add_special_tokens=False, truncation=False)["input_ids"]
        np.testing.assert_array_equal(ours.encode(text), np.asarray(expected, np.int32), text)


def test_special_ids(folder, minilm_folder):
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    ours = load_tokenizer(folder)
    assert (ours.pad_id, ours.cls_id, ours.sep_id, ours.vocab_size) == (
        theirs.pad_token_id,
        theirs.cls_token_id,
        theirs.sep_token_id,
        len(theirs),
    )
