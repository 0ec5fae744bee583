"""Whole words, lower-cased and cut as in the Penn Treebank; the rare ones are unknown."""

from __future__ import annotations

import pickle

import pytest

from mmjax.data.tokenizers import load_tokenizer, train_word_tokenizer
from mmjax.errors import UserError

CASES = {
    "Don't you think it's FINE?": "do n't you think it 's fine ?",
    "we'll go, they've gone; I'd stay": "we 'll go , they 've gone ; i 'd stay",
    "I can’t wait, I cannot": "i ca n't wait , i can not",
    "gonna go to the gotham wannabe": "gon na go to the gotham wannabe",
    "at 10:30, $1,000.50 or 3.5%": "at 10:30 , $ 1,000.50 or 3.5 %",
    "my T-shirt, size 36/38 (new)": "my t-shirt , size 36/38 ( new )",
    "5 o'clock... nice!!": "5 o'clock ... nice ! !",
    "the park.then home --ok": "the park . then home -- ok",
    "naïve café 🐕 東京": "naïve café 🐕 東京",
    "<end> is what he said": "< end > is what he said",
}


def fitted(texts, folder, min_count=1):
    return train_word_tokenizer(texts, min_count, folder)


def words_of(tokenizer, text):
    return [tokenizer._tokenizer.id_to_token(i) for i in tokenizer.encode(text)]


@pytest.mark.parametrize("text", CASES)
def test_a_text_is_cut_into_its_words(text, tmp_path):
    assert words_of(fitted([text], tmp_path), text) == CASES[text].split()


def test_words_that_are_too_rare_are_unknown_and_the_frequent_come_first(tmp_path):
    texts = ["dog dog dog cat cat cat cat fish", "Dog fish fish bird"]
    tokenizer = fitted(texts, tmp_path, min_count=4)
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.vocab_size == 6
    assert list(tokenizer.encode("a DOG and a cat, fish")) == [3, 5, 3, 3, 4, 3, 3]
    assert len(tokenizer.encode(" \n")) == 0


def test_it_is_the_same_however_it_is_opened(tmp_path):
    made = fitted(["one two two", "three two"], tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(made))):
        assert other.fingerprint == made.fingerprint
        assert list(other.encode("two three <end> four")) == list(
            made.encode("two three <end> four")
        )
    assert fitted(["three two two", "two one"], tmp_path / "b").fingerprint == made.fingerprint


def test_without_a_frequent_word_there_is_no_vocabulary(tmp_path):
    for texts in ([], ["one two", "three"]):
        with pytest.raises(UserError, match="No word occurs 4 times in the"):
            fitted(texts, tmp_path, min_count=4)
