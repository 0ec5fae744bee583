"""Candidates that another run proposed: its predictions, joined to the dialogues that they answer.

A retriever ranks all photos; whoever looks closer at the best of them reads what it wrote with
`--mode=predict`. So any system can propose, and the one that looks closer knows none of them.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from mmjax.data.schema import Dialogue, Photo, Proposal, labels_of
from mmjax.data.sources import Source
from mmjax.errors import UserError

# Part of the fingerprint: raise it when the same answers would give other proposals.
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class _Answer:
    """One line of a predictions file."""

    own: str
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    above: int
    equal: int


class CandidateSource:
    """Dialogues with a `Proposal` for each shared photo.

    Photos with the same labels stand in it once: who reads labels cannot tell them apart.
    """

    def __init__(
        self, origin: Source, file: epath.PathLike, *, top: int, negatives: int | None = None
    ):
        """Args:
          origin: the dialogues, a split of those that were answered.
          file: the predictions on it.
          top: of them, how many photos are taken.
          negatives: for training: so many of the `top` that do not look like the shared photo,
            drawn at random but always the same, and the shared one. Nothing is proposed where that
            is not among the `top`: beside those that were thought better it would teach to prefer
            what fits worse. None: the `top` as they are.

        Raises:
          UserError: no such file, or it is no answer to these dialogues; where they are judged
            (`negatives` is None), one of them has no answer.
        """
        self.name, self.photos, self.regions = origin.name, origin.photos, origin.regions
        self._origin = origin
        file = epath.Path(file)
        lines = _read(file)
        self._answers = {name: _answer(line, top, file, name) for name, line in lines.items()}
        self._photos = _photos(origin)
        self._check(file, top, whole=negatives is None)
        pool = {self._photos[answer.own].id for answer in self._answers.values()}
        self._alike = collections.Counter(_content(self._photos[name]) for name in pool)
        self._negatives = negatives
        state = json.dumps([_FORMAT, origin.fingerprint, top, negatives, lines], sort_keys=True)
        self.fingerprint = hashlib.sha256(state.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._origin)

    def __getitem__(self, i: int) -> Dialogue:
        dialogue = self._origin[i]
        proposals = tuple(
            self._proposal(name, photo) if name in self._answers else None
            for name, photo in _shares(dialogue)
        )
        return dataclasses.replace(dialogue, proposals=proposals)

    def _proposal(self, name: str, shared: Photo) -> Proposal | None:
        answer = self._answers[name]
        best = zip((self._photos[photo] for photo in answer.ids), answer.scores, strict=True)
        found: dict[tuple[str, ...], tuple[Photo, float]] = {}
        for photo, score in best:
            found.setdefault(_content(photo), (photo, score))
        if self._negatives is not None:
            if _content(shared) not in found:
                return None
            found = self._drawn(name, shared, found)
        photos, scores = zip(*found.values(), strict=True)
        contents, own = list(found), _content(shared)
        return Proposal(
            photos=photos,
            right=contents.index(own) if own in found else -1,
            scores=scores,
            alike=tuple(max(1, self._alike[content]) for content in contents),
            above=answer.above,
            equal=answer.equal,
        )

    def _drawn(
        self, name: str, shared: Photo, found: Mapping[tuple[str, ...], tuple[Photo, float]]
    ) -> dict[tuple[str, ...], tuple[Photo, float]]:
        own = _content(shared)
        others = [content for content in found if content != own]
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        some = np.random.default_rng(seed).permutation(len(others))[: self._negatives]
        kept = {own, *(others[k] for k in some)}
        return {content: pair for content, pair in found.items() if content in kept}

    def _check(self, file: epath.Path, top: int, whole: bool) -> None:
        names = {name for answer in self._answers.values() for name in (answer.own, *answer.ids)}
        if unknown := sorted(names - set(self._photos)):
            raise UserError(
                f"{file} names photo {unknown[0]!r}, which {self.name} does not have: it answers "
                "other dialogues."
            )
        fewest = min((len(answer.ids) for answer in self._answers.values()), default=0)
        if fewest < min(top, len({answer.own for answer in self._answers.values()})):
            raise UserError(
                f"{file} has {fewest} candidates per answer, and {top} are asked for: make it "
                f"again with --top={top}."
            )
        if whole:
            self._check_whole(file)

    def _check_whole(self, file: epath.Path) -> None:
        """A recall is of all queries, and the photos of all are its candidates."""
        asked = [name for i in range(len(self._origin)) for name, _ in _shares(self._origin[i])]
        if missing := [name for name in asked if name not in self._answers]:
            raise UserError(
                f"{file} has no answer to {len(missing):,} of the {len(asked):,} shared photos of "
                f"{self.name}, such as {missing[0]}: without them the recall would be of fewer "
                "queries and candidates. Let the run that proposes answer the whole split again "
                "(--mode=predict), or leave those dialogues out of the data."
            )


def candidates_file(place: str, split: str) -> epath.Path:
    """The predictions of a run on a split. `place`: "run://DIR", or the folder they are in.

    Raises:
      UserError: it has none.
    """
    folder = epath.Path(place.removeprefix("run://")).expanduser()
    if place.startswith("run://"):
        folder /= "predictions"
    file = folder / f"{split}.jsonl"
    if not file.exists():
        raise UserError(
            f"{file} does not exist: let the run that proposes candidates answer this split "
            f"(--mode=predict --split={split} --top=50)."
        )
    return file


def _read(file: epath.Path) -> dict[str, Any]:
    """Its lines by the "id" in them."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            found[str(value["id"])] = value
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}, line {number}, is no answer of a run.") from error
    if not found:
        raise UserError(f"{file} holds no answer.")
    return found


def _answer(line: Mapping[str, Any], top: int, file: epath.Path, name: str) -> _Answer:
    try:
        best = line["top"][:top]
        scores = tuple(float(photo["score"]) for photo in best)
        answer = _Answer(
            own=str(line["photo"]),
            ids=tuple(str(photo["photo"]) for photo in best),
            scores=scores,
            above=int(line["above"]),
            equal=int(line["equal"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: the answer to {name} is not one of photo retrieval.") from error
    if not all(map(math.isfinite, scores)):
        raise UserError(f"{file}: a score in the answer to {name} is no finite number.")
    return answer


def _shares(dialogue: Dialogue) -> list[tuple[str, Photo]]:
    """Name of each share, as answers have it, and its photo."""
    shared = [photo for turn in dialogue.turns for photo in turn.photos]
    return [(f"{dialogue.id}#{i}" if i else dialogue.id, photo) for i, photo in enumerate(shared)]


def _photos(source: Source) -> dict[str, Photo]:
    dialogues: Iterable[Dialogue] = (source[i] for i in range(len(source)))
    return {photo.id: photo for d in dialogues for turn in d.turns for photo in turn.photos}


def _content(photo: Photo) -> tuple[str, ...]:
    return tuple(labels_of(photo))
