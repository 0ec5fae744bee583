"""Characters as tokens: every text comes back as it was, and what is masked is one token."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.data.chinese import unspaced
from mmjax.data.dialogue_marks import dialogue_marks
from mmjax.data.tokenizers import load_tokenizer, train_character_tokenizer, train_word_tokenizer
from mmjax.errors import UserError

TEXTS = ["你好，[数字x]元", "好的#E-s[数字x] 👍🏽 ab", "你  好"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_character_tokenizer(TEXTS, 400, tmp_path_factory.mktemp("vocabulary"))


def pieces_of(tokenizer, text):
    inner = tokenizer.to_tokenizers()
    return [inner.id_to_token(int(i)) for i in tokenizer.encode(text)]


def test_signs_and_masked_things_are_one_token_and_unknown_signs_are_bytes(tokenizer):
    assert pieces_of(tokenizer, "好[数字x] 👍🏽#E-s[数字x]") == [
        *("好", "[数字x]", "▁", "👍🏽", "#E-s[数字x]")
    ]
    assert pieces_of(tokenizer, "坏[日期x]")[:3] == ["<0xE5>", "<0x9D>", "<0x8F>"]
    assert pieces_of(tokenizer, "</s><pad>")[0] == "<0x3C>"  # no special token is written out


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=20))
def test_a_text_comes_back_but_for_its_white_space(tokenizer, text):
    ids = [*tokenizer.encode(text), tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(ids).split() == text.split()


def test_the_frequent_come_first_and_few_fit(tmp_path):
    made = train_character_tokenizer([chr(0x4E00 + n) * (n + 1) for n in range(60)], 300, tmp_path)
    assert made.vocab_size == 300
    assert pieces_of(made, chr(0x4E00 + 59)) == [chr(0x4E00 + 59)]
    assert len(pieces_of(made, chr(0x4E00))) == 3  # the rarest: spelled


def test_it_is_the_same_however_it_is_opened(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert other.fingerprint == tokenizer.fingerprint
        assert other.encode(TEXTS[1]).tolist() == tokenizer.encode(TEXTS[1]).tolist()
    again = train_character_tokenizer(TEXTS, 400, tmp_path / "again")
    assert again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(("texts", "size"), [([], 400), ([" "], 400), (["你"], 299)])
def test_without_text_or_room_there_is_no_vocabulary(texts, size, tmp_path):
    with pytest.raises(UserError, match=r"no text|too small"):
        train_character_tokenizer(texts, size, tmp_path)


def test_marks_that_a_vocabulary_lacks_come_after_its_tokens(tokenizer, tmp_path):
    marks, size = dialogue_marks(tokenizer), tokenizer.vocab_size
    assert (*marks.speakers, marks.rewrite) == (size, size + 1, size + 2)
    assert (marks.vocab_size, marks.pad) == (size + 3, tokenizer.pad_id)
    words = train_word_tokenizer(["[speaker1]"], 1, tmp_path)
    assert words.token_id("speaker1") is not None and words.token_id("[speaker1]") is None


@pytest.mark.parametrize(
    ("text", "want"), [("你 好 iphone 8 吗", "你好iphone 8吗"), ("a b", "a b"), ("， 好", "，好")]
)
def test_chinese_has_no_spaces(text, want):
    assert unspaced(text) == want
