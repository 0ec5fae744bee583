"""The examples of tasks that write text: a dialogue, and what is to be written, as one row.

    [begin] [speaker1] what is said [speaker2] an answer [speaker1] a question [mark] the text [end]

as CDial-GPT has it (Wang et al. 2020, 4.1): the mark before the text says who says it, or that it
is a rewrite; beside each token goes its speaker. Photos stand where they occurred, after the text
of their turn. What is known of the products, where it is asked for, stands after [begin], as
nobody's: its tokens have [begin] for a speaker.

What does not fit is dropped in this order: facts beyond `knowledge_max_length` tokens, then the
oldest tokens of the dialogue. The oldest turns tell least of an answer, and dropped after the facts
they would push them out of every long dialogue, where an answer is looked up; and the newest turns
are never crowded out, since the facts may take half of the room at most.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mmjax.config import judging, limited, operational
from mmjax.data.dialogue_marks import DialogueMarks, dialogue_marks
from mmjax.data.examples import Example, SkipRecord
from mmjax.data.images import ImageOptions
from mmjax.data.knowledge import facts, read_facts
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.tokenizers import Tokenizer
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError

# Features with a value per token.
TOKENS = ("text", "speaker", "response")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What is read, what is written, and how.

    Attributes:
      max_length: tokens of a row.
      target_max_length: of these, for the text that is learned with its end; of a longer one the
        start is learned. What is read leaves them free, however short the text is; its oldest
        tokens are dropped.
      max_images: of what is read, the last ones; by a model that sees images.
      image: how photos become pixels.
      decoding: how text is written.
      written_in_training: how many examples of dev, spread over it, are written to when a run in
        training is judged; None: all. The perplexity is always that of all.
      slots: answers are also judged by which thing they name, of those that photos show, and by
        whether the right one is less likely beside another photo (`mmjax.evaluators_slots`).
      knowledge: what is known of the products is read before the dialogue (`mmjax.data.knowledge`).
      knowledge_max_length: tokens of it; of what is read, it leaves half to the dialogue.
    """

    max_length: int = limited(256, low=8)
    target_max_length: int = limited(64, low=2)
    max_images: int = limited(2, low=1)
    image: ImageOptions = ImageOptions()  # noqa: RUF009 - it is frozen
    decoding: DecodingOptions = judging(DecodingOptions())  # noqa: RUF009 - it is frozen
    written_in_training: int | None = operational(200, low=1)
    slots: bool = judging(False)
    knowledge: bool = False
    knowledge_max_length: int = limited(64, low=1)

    @property
    def prompt_max_length(self) -> int:
        return self.max_length - self.target_max_length


class Goal(Protocol):
    """What a task writes to a dialogue.

    Attributes:
      name: of the task.
      identity: JSON values that, with a dialogue, determine the turns.
      role: see `mmjax.tasks.base.Task`.
    """

    name: str
    role: str | None
    identity: Mapping[str, Any]

    def turns(self, dialogue: Dialogue) -> Sequence[int]:
        """The turns that something is written for. Raises SkipRecord where there are none."""

    def read(self, turn: int) -> int:
        """How many turns are read for it."""

    def references(self, turn: Turn) -> tuple[str, ...]:
        """What people wrote; the first is learned."""

    def mark(self, turn: Turn, marks: DialogueMarks) -> int:
        """The token before what is written."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One example, int32 [L] each.

    Attributes:
      tokens: name -> values: "text", the ids; "speaker", the word that stands for each one's
        speaker; "response", 1 where a token is to be learned; "image_at", see `Decoder`.
      photos: in their order.
      mark: the speaker of what is written.
    """

    tokens: Mapping[str, np.ndarray]
    photos: tuple[Photo, ...]
    mark: int


class GenerationRows:
    """Dialogue -> examples and their rows.

    Attributes:
      vectors: tokens that an image takes; 0: images are not seen.
    """

    def __init__(
        self, options: GenerationOptions, goal: Goal, tokenizer: Tokenizer, vectors: int = 0
    ):
        self.options, self.goal, self.tokenizer, self.vectors = options, goal, tokenizer, vectors
        self.marks = dialogue_marks(tokenizer)
        # Beside the begin and the mark; with an image also the word that asks.
        self._room = options.prompt_max_length - 2
        if options.knowledge and 2 * options.knowledge_max_length > self._room:
            raise UserError(
                f"config.task.knowledge_max_length={options.knowledge_max_length} takes more than "
                f"half of the {max(0, self._room)} tokens that are read: lower it, or raise "
                "config.task.max_length."
            )
        if self._room < 2 + vectors:
            raise UserError(
                f"config.task.target_max_length={options.target_max_length} leaves "
                f"{max(0, options.prompt_max_length)} of config.task.max_length="
                f"{options.max_length} tokens for what is read; {4 + vectors} are needed."
            )

    @property
    def token_features(self) -> tuple[str, ...]:
        return (*TOKENS, "image_at") if self.vectors else TOKENS

    def examples(self, dialogue: Dialogue) -> Iterable[Example]:
        """One per turn that something is written for; its `sub` is the number of the turn.

        Raises:
          SkipRecord: nobody answers, or to nothing.
        """
        found = self.goal.turns(dialogue)
        # Also what only a model that sees could answer: all are asked the same.
        asked = [t for t in found if any(not x.silent for x in dialogue.turns[: self.goal.read(t)])]
        if not asked:
            raise SkipRecord("nothing is said before")
        encode, known = self._encoder(dialogue), self._known(dialogue)
        for turn in asked:
            row = self._row(dialogue, turn, encode, known)
            lengths = dict.fromkeys(self.token_features, len(row.tokens["text"]))
            lengths["reply_speaker"] = 1
            if self.vectors:
                images = len(row.photos)
                lengths |= {"images": images, "image_vectors": images * self.vectors}
            yield Example(turn, lengths, {})

    def row(self, dialogue: Dialogue, turn: int) -> Row:
        return self._row(dialogue, turn, self._encoder(dialogue), self._known(dialogue))

    def _row(
        self, dialogue: Dialogue, turn: int, encode: Callable[[int], np.ndarray], known: np.ndarray
    ) -> Row:
        said, marks = dialogue.turns[turn], self.marks
        room = self._room - len(known)
        ids, speakers, image_at, photos = self._read(dialogue, self.goal.read(turn), encode, room)
        (target,) = (self._ids(text) for text in self.goal.references(said)[:1])
        target = np.append(target, marks.end)[: self.options.target_max_length]
        mark = self.goal.mark(said, marks)
        begin = np.full(1 + len(known), marks.begin)
        length = len(begin) + len(ids) + 1 + len(target)
        values = {
            "text": [[marks.begin], known, ids, [mark], target],
            "speaker": [begin, speakers, [mark], np.full(len(target), mark)],
            "response": [np.zeros(length - len(target)), np.ones(len(target))],
            "image_at": [0 * begin, image_at, np.zeros(len(target) + 1)],
        }
        tokens = {n: np.concatenate(values[n]).astype(np.int32) for n in self.token_features}
        return Row(tokens, photos, mark)

    def _known(self, dialogue: Dialogue) -> np.ndarray:
        if not self.options.knowledge:
            return np.zeros(0, np.int32)
        return read_facts(facts(dialogue), self._ids, self.options.knowledge_max_length)

    def _read(
        self, dialogue: Dialogue, end: int, encode: Callable[[int], np.ndarray], room: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Photo, ...]]:
        """Ids, speakers and places of images of the last tokens before turn `end`, as many as there
        is room for, and the photos. An image is there as a whole or not at all."""
        pieces: list[tuple[np.ndarray, ...]] = []
        photos: list[Photo] = []
        left_over, turn = room, end
        while left_over > 0 and turn > 0:
            turn -= 1
            said = dialogue.turns[turn]
            if not self._says(said):
                continue
            left = self.options.max_images - len(photos)
            shown = self._seen(said)[-left:] if left else ()
            photos[:0] = shown
            words, slots = encode(turn), len(shown) * self.vectors
            mark = self.marks.speaker(said.speaker)
            ids = np.concatenate([[mark], words, np.full(slots, self.marks.begin)])
            # From 1 within each image; 0 at words.
            places = np.arange(slots) % max(self.vectors, 1) + 1
            places = np.concatenate([np.zeros(len(words) + 1), places])
            pieces.insert(0, (ids, np.full(len(ids), mark), places))
            left_over -= len(ids)
        if not pieces:
            nothing = np.zeros(0)
            return nothing, nothing, nothing, ()
        ids, speakers, places = (
            np.concatenate(parts)[-room:] for parts in zip(*pieces, strict=True)
        )
        whole = np.argmax(places <= 1)  # before it is the rest of an image
        ids, speakers, places = ids[whole:], speakers[whole:], places[whole:]
        number = np.cumsum(places == 1)
        image_at = np.where(places > 0, (number - 1) * self.vectors + places, 0)
        kept = int(number[-1]) if len(number) else 0
        return ids, speakers, image_at, tuple(photos[len(photos) - kept :])

    def _encoder(self, dialogue: Dialogue) -> Callable[[int], np.ndarray]:
        """Token ids of turns, each made once."""
        return functools.cache(lambda turn: self._ids(dialogue.turns[turn].text))

    def _ids(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text.strip())

    def _says(self, turn: Turn) -> bool:
        return bool(turn.text.strip() or self._seen(turn))

    def _seen(self, turn: Turn) -> tuple[Photo, ...]:
        """Photos that could be had, where the model looks at them."""
        return tuple(photo for photo in turn.photos if self.vectors and photo.file is not None)
