"""Chinese text in pieces: characters as a reader sees them, and what stands for something masked.

Releases of customer service mask numbers, names and the like ("[数字x]", "[ORDERID_10000662]") and
write their own emoticons ("#E-s[数字x]"). Each of these is one piece: cut into characters it would
count many times over, and a model would have to spell it.
"""

from __future__ import annotations

import functools

import regex

# Brackets with no space or bracket inside: "[数字x]", "[价保金额(单件)]".
MASK = r"\[[^\[\]\s]{1,24}\]"
_EMOTICON = rf"#E-(?:\p{{Latin}}{{1,2}}\d{{0,4}}(?:{MASK})?|{MASK})"
# A run of white space is no piece; \X is a character with all that belongs to it (an emoji of
# several code points, an accent).
PIECE = rf"{_EMOTICON}|{MASK}|(?!\s)\X"
_PIECE = regex.compile(PIECE)
_WHOLE = regex.compile(rf"({_EMOTICON}|{MASK})")
# Signs that are written without spaces between them: Chinese, its punctuation, full-width forms.
_CHINESE = r"[\p{Han}\u3000-\u303f\uff00-\uffef]"
_NO_SPACE = regex.compile(rf"(?<={_CHINESE}) +| +(?={_CHINESE})")
_WIDE, _SPACE = range(0xFF01, 0xFF5F), 0x3000
_HALF = {code: code - 0xFEE0 for code in _WIDE} | {_SPACE: 0x20}


def characters(text: str) -> list[str]:
    """The pieces of a text: masked things whole, else single characters; no white space."""
    return _PIECE.findall(text)


def words(text: str) -> list[str]:
    """Words by jieba's dictionary and model; masked things whole, no white space."""
    cut = _segmenter()
    found: list[str] = []
    for number, part in enumerate(_WHOLE.split(text)):
        # `split` puts what it splits at in every other place.
        found += [part] if number % 2 else [word for word in cut(part) if word.strip()]
    return found


def half_width(text: str) -> str:
    """Full-width Latin letters, digits, marks and spaces as half-width ones ("，" becomes ",")."""
    return text.translate(_HALF)


def unspaced(text: str) -> str:
    """The text without the spaces beside Chinese signs."""
    return _NO_SPACE.sub("", text)


@functools.cache
def _segmenter():
    import rjieba  # takes its dictionary into memory

    return rjieba.cut
