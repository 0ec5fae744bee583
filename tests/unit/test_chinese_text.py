"""Chinese in pieces: what is masked stays whole, an emoji too, and nothing but spaces is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.data.chinese import characters, half_width, words

SIGNS = "你好，！ab1 Ａ１[]数字x#E-s\u200d👍🏽\u0301\n\u3000"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("能到货吗", ["能", "到", "货", "吗"]),
        ("退[数字x]元", ["退", "[数字x]", "元"]),
        ("好#E-s[数字x]#E-s2[数字x]7", ["好", "#E-s[数字x]", "#E-s2[数字x]", "7"]),
        ("单[ORDERID_10000662]，", ["单", "[ORDERID_10000662]", "，"]),
        ("[价保金额(单件)]", ["[价保金额(单件)]"]),
        ("[订单编号:[订单x]]", [*"[订单编号:", "[订单x]", "]"]),
        ("[没有 尾", [*"[没有尾"]),
        ("👍🏽👨‍👩‍👧e\u0301", ["👍🏽", "👨‍👩‍👧", "e\u0301"]),
        (" Ａ１\u3000b ", ["Ａ", "１", "b"]),
        ("", []),
        ("#E-", ["#", "E", "-"]),
    ],
)
def test_characters(text, pieces):
    assert characters(text) == pieces


@settings(deadline=None)  # the first call of `words` reads a dictionary
@given(st.text(st.sampled_from(SIGNS), max_size=20))
def test_only_white_space_is_lost(text):
    assert "".join(characters(text)) == "".join(text.split())
    assert "".join("".join(words(text)).split()) == "".join(text.split())


def test_words_keep_what_is_masked_whole():
    found = words("这款商品[数字x]天能到货吗#E-s[数字x]")
    assert {"商品", "[数字x]", "到货", "#E-s[数字x]"} <= set(found)


def test_full_width_forms_become_half_width_ones():
    assert half_width("ＡＢＣ，１２３！\u3000。好") == "ABC,123! 。好"


def test_ten_thousand_characters_are_cut_in_no_time():
    assert len(characters("好[数字x]" * 5_000)) == 10_000
    assert len(characters("[" * 10_000)) == 10_000
