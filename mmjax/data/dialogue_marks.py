"""The tokens that a written dialogue needs beside its words: where it begins and ends, who speaks.

A vocabulary that was made for dialogues (CDial-GPT's) has them all. Others get the numbers after
their last token, which need no change of the tokenizer: no text becomes one of them.
"""

from __future__ import annotations

import dataclasses

from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError

SPEAKERS = ("[speaker1]", "[speaker2]")
REWRITE = "[rewrite]"


@dataclasses.dataclass(frozen=True)
class DialogueMarks:
    """Token ids.

    Attributes:
      begin, end: of a dialogue, and of what is written.
      pad: of rows; where a vocabulary has none, any will do.
      speakers: of the first speaker, and of all others.
      rewrite: stands before what a message means, as a speaker stands before what is said.
      vocab_size: how many ids there are with these.
      added: token -> id, of those that are not the tokenizer's own.
    """

    begin: int
    end: int
    pad: int
    speakers: tuple[int, int]
    rewrite: int
    vocab_size: int
    added: dict[str, int]

    def speaker(self, number: int) -> int:
        return self.speakers[min(number, 1)]


def dialogue_marks(tokenizer: Tokenizer) -> DialogueMarks:
    """The marks in a vocabulary. Raises UserError where texts have no begin or end in it."""
    special = tokenizer.special_ids
    found = {}
    for mark, names in (("begin", ("bos_token", "cls_token")), ("end", ("eos_token", "sep_token"))):
        known = [special[name] for name in names if name in special]
        if not known:
            raise UserError(
                f"the vocabulary has no token for the {mark} of a dialogue: name one of its tokens "
                f"as {names[0]} in tokenizer_config.json, or use the tokenizer of a model that "
                "writes text, such as GPT-2 or CDial-GPT."
            )
        found[mark] = known[0]
    added: dict[str, int] = {}
    for token in (*SPEAKERS, REWRITE):
        if tokenizer.token_id(token) is None:
            added[token] = tokenizer.vocab_size + len(added)
    ids = {token: added.get(token, tokenizer.token_id(token)) for token in (*SPEAKERS, REWRITE)}
    return DialogueMarks(
        **found,
        pad=special.get("pad_token", found["end"]),
        speakers=(ids[SPEAKERS[0]], ids[SPEAKERS[1]]),
        rewrite=ids[REWRITE],
        vocab_size=tokenizer.vocab_size + len(added),
        added=added,
    )
