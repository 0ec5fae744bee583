"""One schema for every dialogue dataset, and its flat form on disk.

Every task reads `Dialogue` and nothing else, so every task runs on every dataset that has the
fields it needs. On disk photos are one flat list that points into the turns: most turns have no
photo, and a list per turn would cost each of them three empty arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Photo:
    """A shared photo: an id unique in its dataset, the names of what it shows, its address."""

    id: str
    labels: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: `speaker` counts from 0; the text may be empty where a photo is shared."""

    speaker: int
    text: str = ""
    photos: tuple[Photo, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns in the order in which they were said."""

    id: str
    turns: tuple[Turn, ...]


def to_record(dialogue: Dialogue) -> dict[str, Any]:
    """The nested dictionary that a TFDS builder yields; `dialogue_features` describes it."""
    return {
        "id": dialogue.id,
        "turns": [{"speaker": turn.speaker, "text": turn.text} for turn in dialogue.turns],
        "photos": [
            {"turn": k, "id": photo.id, "url": photo.url, "labels": list(photo.labels)}
            for k, turn in enumerate(dialogue.turns)
            for photo in turn.photos
        ],
    }


def from_record(record: Mapping[str, Any]) -> Dialogue:
    """The dialogue in one record as `as_data_source` yields it: bytes, and columns per field."""
    photos: dict[int, list[Photo]] = {}
    shared = record["photos"]
    for k, name, url, labels in zip(
        shared["turn"], shared["id"], shared["url"], shared["labels"], strict=True
    ):
        photo = Photo(name.decode(), tuple([label.decode() for label in labels]), url.decode())
        photos.setdefault(int(k), []).append(photo)
    turns = record["turns"]
    return Dialogue(
        record["id"].decode(),
        tuple(
            [
                Turn(int(speaker), text.decode(), tuple(photos[k]) if k in photos else ())
                for k, (speaker, text) in enumerate(
                    zip(turns["speaker"], turns["text"], strict=True)
                )
            ]
        ),
    )


def dialogue_features() -> Any:
    """The `tfds.features.FeaturesDict` of a record; `photos.turn` is an index into `turns`."""
    import numpy as np
    import tensorflow_datasets as tfds

    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "turns": tfds.features.Sequence({"speaker": np.int32, "text": text()}),
            "photos": tfds.features.Sequence(
                {
                    "turn": np.int32,
                    "id": text(),
                    "url": text(),
                    "labels": tfds.features.Sequence(text()),
                }
            ),
        }
    )
