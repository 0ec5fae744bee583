"""Finds first names in the texts of a source and puts a neutral word in their place.

A name that is spoken in a dialogue and written on a photo gives the photo away. Which words are
names is told by a list (Faker's, English), by a relation before a word with a capital ("my brother
Darwin"), and by how the source writes them: "will" and "rose" are mostly in small letters, and a
name has a capital somewhere.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator

from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source

NEUTRAL = "someone"
_RELATION = re.compile(
    "(step|grand)?(mother|father|son|daughter|parent)|(grand)?(mom|mum|ma|dad|pa)|brother|bro|"
    "sister|sis|uncle|aunt|cousin|nephew|niece|husband|wife|partner|fianc[eé]e?|(boy|girl)?friends?|"
    "buddy|mate|kid|co-?worker|colleague|classmate|student|roommate|neighbou?r|teacher|family"
)

_RELATED = re.compile(rf"\b({_RELATION.pattern}) $", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
# What ends a sentence, or anything that stands before its first letter.
_START = re.compile(r"(^|[.!?…:;\n])[^\w]*$")
_RARE = 0.002  # of the dialogues: so seldom in small letters, it is still a name


@dataclasses.dataclass(frozen=True)
class Names:
    """Attributes:
    sure: in small letters; names wherever they stand and however they are written.
    unsure: names where they have a capital inside a sentence, else words.
    """

    sure: frozenset[str]
    unsure: frozenset[str]

    def mask(self, text: str) -> str:
        """The text with `NEUTRAL` for each name."""

        def shown(word: re.Match) -> str:
            name = word[0].lower()
            if name in self.sure:
                return NEUTRAL
            return NEUTRAL if name in self.unsure and _capital_inside(word) else word[0]

        return _WORD.sub(shown, text)


def find_names(source: Source) -> Names:
    """The names that are used in the messages and labels of a source."""
    listed, capital, small, related = _listed(), *(collections.Counter() for _ in range(3))
    for i in range(len(source)):
        for text in _texts(source[i]):
            for word in _WORD.finditer(text):
                name = word[0].lower()
                if _capital_inside(word):
                    capital[name] += 1
                    related[name] += bool(_RELATED.search(text, 0, word.start()))
                elif word[0] == name:
                    small[name] += 1
    told = {name for name, count in related.items() if count and len(name) > 2}
    found = {name for name in {*capital} & listed | told if not _RELATION.fullmatch(name)}
    words = {name for name in found if small[name] > max(capital[name], _RARE * len(source))}
    return Names(frozenset(found - words), frozenset(words & listed))


def _listed() -> frozenset[str]:
    from faker.providers.person.en import Provider

    return frozenset(name.lower() for name in Provider.first_names)


def _texts(dialogue: Dialogue) -> Iterator[str]:
    for turn in dialogue.turns:
        yield turn.text
        for photo in turn.photos:
            yield from photo.labels


def _capital_inside(word: re.Match) -> bool:
    """Whether it has one capital, and is not the first word of a sentence."""
    return word[0].istitle() and not _START.search(word.string, 0, word.start())
