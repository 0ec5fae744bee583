"""One schema for every dialogue dataset, and its flat form on disk.

Every task reads `Dialogue` and nothing else, so every task runs on every dataset that has the
fields it needs. On disk photos are one flat list that points into the turns: most turns have no
photo, and a list per turn would cost each of them three empty arrays. So are boxes, which point
into the photos. Pixels are not in the record: a photo is shared in many dialogues, and whoever
reads texts alone should not read megabytes (`mmjax.data.photos`). What only some datasets say
(other answers, rewrites, products, discourse, summaries) is in the record where they do
(`mmjax.data.annotations`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmjax.data import annotations as annotated
from mmjax.data.annotations import Edu, Product, Relation

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
    """One message: `speaker` counts from 0; the text may be empty where a photo is shared.

    Attributes:
      references: what other people said in its place; `text` is as right as they are.
      rewrites: what it means, said so that nobody needs the turns before; (): it cannot be said
        so; None: nobody was asked.
    """

    speaker: int
    text: str = ""
    photos: tuple[Photo, ...] = ()
    references: tuple[str, ...] = ()
    rewrites: tuple[str, ...] | None = None

    @property
    def silent(self) -> bool:
        """Without a text and without a photo, be it one that could not be had."""
        return not self.text.strip() and not self.photos


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

    Attributes:
      proposals: one for each shared photo, in their order, where a source adds them (None where
        nothing was proposed); they are not on disk.
      roles: of each speaker, by number, such as `mmjax.data.annotations.AGENT`; (): not told.
      targets: the turns that a system should say; None: the dataset does not choose.
      products: what it is about.
      edus, relations: its discourse structure.
      summaries: of all of it, each as good as the others.
    """

    id: str
    turns: tuple[Turn, ...]
    proposals: tuple[Proposal | None, ...] = ()
    roles: tuple[str, ...] = ()
    targets: tuple[int, ...] | None = None
    products: tuple[Product, ...] = ()
    edus: tuple[Edu, ...] = ()
    relations: tuple[Relation, ...] = ()
    summaries: tuple[str, ...] = ()


def to_record(dialogue: Dialogue, parts: Collection[str] | None = None) -> dict[str, Any]:
    """The nested dictionary that a TFDS builder yields; `dialogue_features` describes it.

    Args:
      parts: of `mmjax.data.annotations.PARTS`, what every record of the dataset has; None: what
        this dialogue has.

    Raises ValueError for a part that the dialogue has and the dataset has not: it would be lost.
    """
    told = annotated.to_columns(dialogue)
    parts = tuple(told) if parts is None else parts
    if lost := told.keys() - set(parts):
        raise ValueError(f"dialogue {dialogue.id!r} has {sorted(lost)}, which are not written")
    more = [told.get(part) or annotated.no_columns(part) for part in parts]
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
        **{name: rows for fields in more for name, rows in fields.items()},
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
    turns, said = record["turns"], annotated.of_turns(record)
    return Dialogue(
        record["id"].decode(),
        tuple(
            [
                Turn(
                    int(speaker),
                    text.decode(),
                    tuple(shared[k]) if k in shared else (),
                    **said.get(k, {}),
                )
                for k, (speaker, text) in enumerate(
                    zip(turns["speaker"], turns["text"], strict=True)
                )
            ]
        ),
        **annotated.of_dialogue(record),
    )


def _boxes(columns: Mapping[str, Any]) -> dict[int, list[Box]]:
    found: dict[int, list[Box]] = {}
    for number, label, corners in zip(
        columns["photo"], columns["label"], columns["corners"], strict=True
    ):
        box = Box(label.decode(), *map(float, corners))
        found.setdefault(int(number), []).append(box)
    return found


def dialogue_features(parts: Collection[str] = ()) -> Any:
    """The `tfds.features.FeaturesDict` of a record with these parts.

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
            **annotated.features(parts),
        }
    )
