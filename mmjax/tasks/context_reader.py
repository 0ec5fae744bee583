"""What was said and shown before a turn, as a network reads it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from mmjax.config import limited
from mmjax.data.featurize import Ragged, buckets_up_to
from mmjax.data.images import BadImageError, ImageOptions, PhotoReader
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError

Make = dict[str, Callable[[], np.ndarray]]

# Features of the photo.
IMAGE = ("image", "has_image", "mirror")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """What is read.

    Attributes:
      context_max_length: tokens, with [CLS] and every [SEP]; the oldest are dropped.
      images: the last photo is seen too.
      image: how photos become pixels.
    """

    context_max_length: int = limited(128, low=3)
    images: bool = False
    image: ImageOptions = ImageOptions(fit="crop")  # noqa: RUF009 - it is frozen


class ContextReader:
    """`[CLS] t_1 [SEP] t_2 [SEP] ... t_k [SEP]`, and the last photo that could be had."""

    def __init__(self, options: ContextOptions, tokenizer: Tokenizer):
        self.options, self.tokenizer = options, tokenizer
        self._read_photo = PhotoReader(options.image)

    @property
    def identity(self) -> Mapping[str, object]:
        """JSON values that, with a dialogue, determine what is read."""
        return {
            "rules": 2,  # raised when the same options come to mean other examples
            "tokenizer": self.tokenizer.fingerprint,
            "context_max_length": self.options.context_max_length,
            "images": self.options.images,
        }

    @property
    def ragged(self) -> Ragged:
        """Of a feature with a value per token."""
        buckets = buckets_up_to(self.options.context_max_length, per_octave=2)
        return Ragged(self.tokenizer.pad_id, buckets)

    def tokens(self, dialogue: Dialogue, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the turns before `end`: ids, and each one's speaker, int32 [L].

        A [SEP] has the speaker of the turn that it closes, [CLS] that of the first token left.
        """
        t, room = self.tokenizer, self.options.context_max_length - 1
        ids: list[np.ndarray] = []
        speakers: list[np.ndarray] = []
        for turn in reversed(dialogue.turns[:end]):
            if room <= 0:
                break
            if turn.text.strip():
                # Of what was said long before nothing is made tokens of.
                closed = np.append(t.encode(turn.text.strip()), t.sep_id)[-room:]
                ids.insert(0, closed)
                speakers.insert(0, np.full(len(closed), turn.speaker))
                room -= len(closed)
        said = np.concatenate(ids) if ids else np.array([t.sep_id])
        who = np.concatenate(speakers) if speakers else np.zeros(1)
        return (
            np.concatenate([[t.cls_id], said]).astype(np.int32),
            np.concatenate([who[:1], who]).astype(np.int32),
        )

    def photo(self, dialogue: Dialogue, end: int) -> Photo | None:
        """The last one before turn `end`, of those that could be had."""
        shown = (_shown(turn) for turn in reversed(dialogue.turns[:end]))
        return next(filter(None, shown), None)

    def image(self, dialogue: Dialogue, end: int, rng: np.random.Generator | None) -> Make:
        """How the features `IMAGE` of that photo are made; nothing where none are seen."""
        options = self.options
        if not options.images:
            return {}
        photo = self.photo(dialogue, end)
        # Drawn whether it is asked for or not: what is drawn next does not depend on that.
        mirror = rng is not None and options.image.mirror and rng.random() < 0.5
        return {
            "image": functools.partial(self._pixels, photo, rng),
            "has_image": lambda: np.bool_(photo is not None),
            "mirror": lambda: np.bool_(mirror),
        }

    def _pixels(self, photo: Photo | None, rng: np.random.Generator | None) -> np.ndarray:
        if photo is None:
            return np.zeros((self.options.image.size,) * 2 + (3,), np.uint8)
        try:
            return self._read_photo(photo.file, rng).pixels
        except BadImageError as error:  # each was read when it was prepared
            raise UserError(
                f"photo {photo.id} cannot be read any more ({error}): delete the prepared data."
            ) from error


def _shown(turn: Turn) -> Photo | None:
    return next((photo for photo in reversed(turn.photos) if photo.file is not None), None)
