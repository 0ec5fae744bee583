"""The examples of photo-sharing intent: what was said, and after which turn a photo is shared.

Consecutive turns of one speaker are one turn. Of a dialogue in which h turns come before the first
share, each is asked about: is a photo shared right after it? Yes for the last one alone (PhotoChat,
section 4). A dialogue without a share asks too, and is answered with no throughout.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from mmjax.config import limited
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError

# Features of the tokens, then of the places where a score is read.
TOKENS, PLACES = ("text", "speaker", "turn"), ("place", "label")

# T5 is told in words what is asked (PhotoChat, 5.1), and answers no or yes.
PROMPT, JOINT, ANSWERS = "predict share intent:", "[SEP]", ("0", "1")


@dataclasses.dataclass(frozen=True)
class IntentOptions:
    """What is read and what is learned.

    Attributes:
      prefix: "separate" encodes the dialogue anew up to each of its turns, as the paper does, and
        reads the score from [CLS]; "shared" encodes it once, each token seeing its own turn and
        those before, and reads a score from the [SEP] that closes each turn.
      max_length: tokens, with [CLS] and every [SEP]; the oldest are dropped. In the shared form a
        longer dialogue is read in several pieces; see `pieces`.
      positive_weight: of the turns before a share in the loss, where the others have 1.
      focal_gamma: of the focal loss; 0: plain cross-entropy.
    """

    prefix: Literal["separate", "shared"] = "separate"
    max_length: int = limited(512, low=4)
    positive_weight: float = limited(1.0, above=0)
    focal_gamma: float = limited(0.0, low=0)


def turns_before_share(dialogue: Dialogue) -> tuple[list[Turn], bool]:
    """The merged turns before the first shared photo, and whether there is one.

    Texts of a merged turn are joined by a space; a turn without text says nothing. What is said
    with the photo or after it is not used.

    Raises:
      SkipRecord: nothing was said before.
    """
    shares = [i for i, turn in enumerate(dialogue.turns) if turn.photos]
    before = dialogue.turns[: shares[0]] if shares else dialogue.turns
    said = [turn for turn in before if turn.text.strip()]
    if not said:
        raise SkipRecord("nothing was said before the photo" if shares else "nothing was said")
    merged = [
        Turn(speaker, " ".join(turn.text.strip() for turn in turns))
        for speaker, turns in itertools.groupby(said, key=lambda turn: turn.speaker)
    ]
    return merged, bool(shares)


def pieces(
    lengths: Sequence[int], max_length: int, prefix: Literal["separate", "shared"]
) -> list[range]:
    """Which turns are scored together in one row; every turn is in exactly one range.

    In the separate form a row reaches back as far as `max_length` allows. In the shared form the
    first row holds all turns that fit; each later one begins with half a row of what was said
    before, and scores no more new turns than fill the other half. So where a turn stands in its row
    depends on what was said until then alone: a row that were filled up from its end would tell by
    the place of a turn how much is still to come, and so whether a photo can follow.

    Args:
      lengths: tokens of each turn, without its [SEP].
    """
    if prefix == "separate":
        return [range(turn, turn + 1) for turn in range(len(lengths))]
    room = max_length - 1
    found: list[range] = []
    first, filled = 0, 0
    for turn, length in enumerate(lengths):
        limit = room - _history(room, prefix) if found else room
        if filled + length + 1 > limit and turn > first:
            found.append(range(first, turn))
            first, filled = turn, 0
        filled += length + 1
    return [*found, range(first, len(lengths))]


def _history(room: int, prefix: Literal["separate", "shared"]) -> int:
    """Tokens of a row that what was said before its turns may take."""
    return room if prefix == "separate" else room - room // 2


class IntentExamples:
    """Dialogue -> examples and their features, with a tokenizer: BERT's form.

    Attributes:
      token_features, place_features: names of those with a value per token, and per score.
    """

    place_features: tuple[str, ...] = PLACES

    def __init__(self, options: IntentOptions, tokenizer: Tokenizer):
        self.options, self.tokenizer = options, tokenizer

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        """One example per piece; its `sub` is the number of the first turn that it scores."""
        turns, shared = turns_before_share(dialogue)
        texts = [self.tokenizer.encode(turn.text) for turn in turns]
        ends = np.cumsum([len(text) + 1 for text in texts])
        room = self.options.max_length - 1
        for scored in self._pieces(texts):
            before = ends[scored[0] - 1] if scored[0] else 0
            history = min(before, _history(room, self.options.prefix))
            tokens = 1 + int(min(history + ends[scored[-1]] - before, room))
            lengths = dict.fromkeys(self.token_features, tokens)
            lengths |= dict.fromkeys(self.place_features, len(scored))
            followed = shared and scored[-1] == len(turns) - 1
            yield Example(scored[0], lengths, {}, {"share": int(followed)})

    def features(self, dialogue: Dialogue, sub: int) -> dict[str, np.ndarray]:
        """`[CLS] t_1 [SEP] t_2 [SEP] ... t_j [SEP]`, the oldest tokens dropped, see `pieces`.

        Returns int32 arrays: "text", the ids; "speaker" of each token: a [SEP] has that of the turn
        it closes, [CLS] that of the first token that is left; in the shared form "turn", the number
        of the turn likewise. For each turn that is scored: "place", the position of the token that
        it is read from, and "label".
        """
        turns, shared = turns_before_share(dialogue)
        scored = range(sub, sub + 1)
        if self.options.prefix == "shared":
            texts = [self.tokenizer.encode(turn.text) for turn in turns]
            scored = next(p for p in self._pieces(texts) if p[0] == sub)
        first, end, room = scored[0], scored[-1] + 1, self.options.max_length - 1
        history = _history(room, self.options.prefix)
        before = self._last(turns[:first], history)
        texts = [*before, *(self._closed(turn) for turn in turns[first:end])]
        number = np.repeat(np.arange(end - len(texts), end), [len(text) for text in texts])
        dropped = max(0, sum(len(text) for text in before) - history)
        ids, number = np.concatenate(texts)[dropped:][-room:], number[dropped:][-room:]
        number = np.concatenate([number[:1], number])
        speaker = np.array([turn.speaker for turn in turns])[number]
        place = np.zeros(1)
        if self.options.prefix == "shared":
            last = np.flatnonzero(np.diff(number, append=end))  # of each turn
            place = last[-len(scored) :]
        label = np.array([shared and turn == len(turns) - 1 for turn in scored])
        made = {
            "text": np.concatenate([[self.tokenizer.cls_id], ids]),
            "speaker": speaker,
            "turn": number,
            "place": place,
            "label": label,
        }
        return {
            name: made[name].astype(np.int32)
            for name in (*self.token_features, *self.place_features)
        }

    @property
    def token_features(self) -> tuple[str, ...]:
        return TOKENS if self.options.prefix == "shared" else TOKENS[:2]

    def _last(self, turns: Sequence[Turn], room: int) -> list[np.ndarray]:
        """Tokens of the last turns, each with its [SEP], as many as `room` takes a part of.

        What was said long before is not made tokens of again for every turn.
        """
        found: list[np.ndarray] = []
        for turn in reversed(turns):
            if room <= 0:
                break
            found.append(self._closed(turn))
            room -= len(found[-1])
        return found[::-1]

    def _closed(self, turn: Turn) -> np.ndarray:
        return np.append(self.tokenizer.encode(turn.text), np.int32(self.tokenizer.sep_id))

    def _pieces(self, texts: Sequence[np.ndarray]) -> list[range]:
        lengths = [len(text) for text in texts]
        return pieces(lengths, self.options.max_length, self.options.prefix)


class IntentTexts(IntentExamples):
    """T5's form: `predict share intent: t_1 [SEP] t_2 ... t_j </s>`, "[SEP]" being written out."""

    place_features = ("label",)
    token_features = ("text",)

    def __init__(self, options: IntentOptions, tokenizer: Tokenizer):
        super().__init__(options, tokenizer)
        self._prompt = tokenizer.encode(PROMPT)
        if options.max_length < len(self._prompt) + 2:
            raise UserError(
                f"config.task.max_length={options.max_length} has no room for a dialogue beside "
                f"the question: give at least {len(self._prompt) + 2}."
            )

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        turns, shared = turns_before_share(dialogue)
        ends = np.cumsum([len(text) for text in self._texts(turns)])
        for turn, end in enumerate(ends):
            tokens = int(min(len(self._prompt) + end + 1, self.options.max_length))
            share = int(shared and turn == len(turns) - 1)
            yield Example(turn, {"text": tokens, "label": 1}, {}, {"share": share})

    def features(self, dialogue: Dialogue, sub: int) -> dict[str, np.ndarray]:
        """Int32 arrays: "text", of which the prompt always stays, and of the turns the last tokens;
        "label" [1], which of `ANSWERS` is right.
        """
        turns, shared = turns_before_share(dialogue)
        said = np.concatenate(self._texts(turns[: sub + 1]))
        room = self.options.max_length - len(self._prompt) - 1
        said = said[max(len(said) - room, 0) :]
        ids = np.concatenate([self._prompt, said, [self.tokenizer.eos_id]])
        label = [shared and sub == len(turns) - 1]
        return {"text": ids.astype(np.int32), "label": np.array(label, np.int32)}

    def _texts(self, turns: Sequence[Turn]) -> list[np.ndarray]:
        """Tokens of each turn, with what stands before it; pieces do not reach across spaces."""
        joints = [np.zeros(0, np.int32)] + [self.tokenizer.encode(JOINT)] * (len(turns) - 1)
        texts = (self.tokenizer.encode(turn.text) for turn in turns)
        return [np.concatenate(pair) for pair in zip(joints, texts, strict=True)]


def answer(dialogue: Dialogue, name: str, probabilities: Sequence[float]) -> dict[str, Any]:
    """The merged turns of a dialogue with the probability that a photo follows, as JSON values.

    "shared_after" is the number of the turn (from 0) after which one was shared, or None.
    """
    turns, shared = turns_before_share(dialogue)
    return {
        "id": name,
        "shared_after": len(turns) - 1 if shared else None,
        "turns": [
            {"speaker": turn.speaker, "text": turn.text, "probability": float(f"{p:.6g}")}
            for turn, p in zip(turns, probabilities, strict=True)
        ],
    }
