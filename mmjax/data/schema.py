"""One schema for every dialogue dataset, and its flat form on disk.

Every task reads `Dialogue` and nothing else, so every task runs on every dataset that has the
fields it needs. On disk photos are one flat list that points into the turns: most turns have no
photo, and a list per turn would cost each of them three empty arrays. So are boxes, which point
into the photos. Pixels are not in the record: a photo is shared in many dialogues, and whoever
reads texts alone should not read megabytes (`mmjax.data.photos`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

SPLITS = ("train", "dev", "test")


class PhotoFile(Protocol):
    """Where a photo's pixels are; cheap to pickle and to hash.

    Attributes:
      digest: of the encoded bytes, hexadecimal: equal for photos with equal content.
    """

    digest: str

    def read(self) -> bytes:
        """The encoded photo (JPEG, PNG, ...)."""


class RegionFile(Protocol):
    """Where the features of a photo's regions are; cheap to pickle and to hash.

    Attributes:
      digest: of the features, hexadecimal: equal for photos with equal ones.
    """

    digest: str

    def read(self) -> Any:
        """Numbers [regions, width], the surest region first."""


@dataclass(frozen=True, slots=True)
class Box:
    """An annotated object: its top left corner and size, as fractions of the photo's (0 to 1).

    The photo is upright, as it is seen.
    """

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Photo:
    """A shared photo: an id unique in its dataset, the names of what it shows, its address.

    `file` is None where no pixels are at hand: they were not asked for, or cannot be had; so is
    `regions` where there are no features of its regions.
    """

    id: str
    labels: tuple[str, ...] = ()
    url: str = ""
    boxes: tuple[Box, ...] = ()
    file: PhotoFile | None = field(default=None, compare=False, repr=False)
    regions: RegionFile | None = field(default=None, compare=False, repr=False)


def labels_of(photo: Photo) -> list[str]:
    """The labels that say something."""
    return [label.strip() for label in photo.labels if label.strip()]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: `speaker` counts from 0; the text may be empty where a photo is shared."""

    speaker: int
    text: str = ""
    photos: tuple[Photo, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """What another system answered where a photo was shared; see `mmjax.data.candidates`.

    Attributes:
      photos: best first, no two with the same labels; there is at least one.
      right: which of them is the shared one, or has its labels; -1: none.
      scores: of each, falling.
      alike: of each, how many photos among all candidates have its labels.
      above, equal: how many of all candidates scored higher than the shared photo, and the same.
    """

    photos: tuple[Photo, ...]
    right: int
    scores: tuple[float, ...]
    alike: tuple[int, ...]
    above: int
    equal: int


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns in the order in which they were said.

    `proposals` has one for each shared photo, in their order, where a source adds them (None where
    nothing was proposed); they are not on disk.
    """

    id: str
    turns: tuple[Turn, ...]
    proposals: tuple[Proposal | None, ...] = ()


def to_record(dialogue: Dialogue) -> dict[str, Any]:
    """The nested dictionary that a TFDS builder yields; `dialogue_features` describes it."""
    photos = [(k, photo) for k, turn in enumerate(dialogue.turns) for photo in turn.photos]
    return {
        "id": dialogue.id,
        "turns": [{"speaker": turn.speaker, "text": turn.text} for turn in dialogue.turns],
        "photos": [
            {"turn": k, "id": photo.id, "url": photo.url, "labels": list(photo.labels)}
            for k, photo in photos
        ],
        "boxes": [
            {"photo": number, "label": box.label, "corners": [box.x, box.y, box.width, box.height]}
            for number, (_, photo) in enumerate(photos)
            for box in photo.boxes
        ],
    }


def from_record(
    record: Mapping[str, Any],
    photos: Mapping[str, PhotoFile] | None = None,
    regions: Mapping[str, RegionFile] | None = None,
) -> Dialogue:
    """The dialogue in one record as `as_data_source` yields it: bytes, and columns per field.

    Args:
      photos: id -> where its pixels are, for those that can be had.
      regions: id -> where the features of its regions are, likewise.
    """
    boxes = _boxes(record["boxes"])
    shared: dict[int, list[Photo]] = {}
    columns = record["photos"]
    rows = zip(columns["turn"], columns["id"], columns["url"], columns["labels"], strict=True)
    for number, (k, name, url, labels) in enumerate(rows):
        name = name.decode()
        photo = Photo(
            name,
            tuple([label.decode() for label in labels]),
            url.decode(),
            tuple(boxes.get(number, ())),
            photos.get(name) if photos else None,
            regions.get(name) if regions else None,
        )
        shared.setdefault(int(k), []).append(photo)
    turns = record["turns"]
    return Dialogue(
        record["id"].decode(),
        tuple(
            [
                Turn(int(speaker), text.decode(), tuple(shared[k]) if k in shared else ())
                for k, (speaker, text) in enumerate(
                    zip(turns["speaker"], turns["text"], strict=True)
                )
            ]
        ),
    )


def _boxes(columns: Mapping[str, Any]) -> dict[int, list[Box]]:
    found: dict[int, list[Box]] = {}
    for number, label, corners in zip(
        columns["photo"], columns["label"], columns["corners"], strict=True
    ):
        box = Box(label.decode(), *map(float, corners))
        found.setdefault(int(number), []).append(box)
    return found


def dialogue_features() -> Any:
    """The `tfds.features.FeaturesDict` of a record.

    `photos.turn` is an index into `turns`, `boxes.photo` one into `photos`, and `boxes.corners` is
    x, y, width, height.
    """
    import numpy as np
    import tensorflow_datasets as tfds

    text, sequence = tfds.features.Text, tfds.features.Sequence
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "turns": sequence({"speaker": np.int32, "text": text()}),
            "photos": sequence(
                {"turn": np.int32, "id": text(), "url": text(), "labels": sequence(text())}
            ),
            "boxes": sequence(
                {
                    "photo": np.int32,
                    "label": text(),
                    "corners": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                }
            ),
        }
    )
