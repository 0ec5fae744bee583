"""The photos of the demo: the same everywhere, each its own, and showing what the scene says."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from tfds_builders.photochat import demo_photos
from tfds_builders.photochat.demo_photos import PAINTS, drawing, photo, render
from tfds_builders.photochat.demo_scenes import COLOURS, KINDS, PROPS, SCENES, SETTINGS, scene
from tfds_builders.photochat.demo_settings import SHADOWS
from tfds_builders.photochat.demo_things import DRAWINGS


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def inside(shown, size: int) -> np.ndarray:
    """Which pixels are in the squares that the subject is drawn in; a little more for the tilt."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return np.any(
        [
            np.maximum(abs(x - thing.x), abs(y - thing.y)) < 0.68 * thing.size
            for thing in shown.things
            if thing.kind == shown.kind
        ],
        axis=0,
    )


def recoloured(shown, colour: str):
    things = [
        dataclasses.replace(thing, colour=colour) if thing.kind == shown.kind else thing
        for thing in shown.things
    ]
    return dataclasses.replace(shown, colour=colour, things=tuple(things))


def test_the_drawings_are_frozen_and_each_is_its_own():
    every = [scene(split, i) for split, number in SCENES.items() for i in range(number)]
    frozen = hashlib.sha256(b"[128, 4096, 4]")
    seen = set()
    for shown in every:
        drawn = json.dumps(drawing(shown)).encode()
        frozen.update(drawn)
        seen.add(hashlib.sha256(drawn).digest())
    assert frozen.hexdigest() == demo_photos.PHOTOS_DIGEST, (
        "the drawn photos changed: results are not comparable any more; if that is wanted, write "
        "the new digest down and raise the builder's version"
    )
    assert len(seen) == len(every)


def test_no_two_photos_are_equal_within_or_across_splits():
    photos = [photo(split, i) for split in SCENES for i in range(100)]
    assert len({pixels(data).tobytes() for data in photos}) == len(set(photos)) == len(photos)


@pytest.mark.parametrize("split", SCENES)
def test_a_photo_is_the_same_each_time_and_what_is_rendered(split):
    data = photo(split, 5)
    assert data == photo(split, 5)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (128, 128))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(render(scene(split, 5))))


def test_every_photo_is_read_once_with_its_scenes_id(monkeypatch, tmp_path):
    assert next(iter(demo_photos.read_photos(tmp_path))) == ("demo/train-0000", photo("train", 0))
    monkeypatch.setattr(demo_photos, "photo", lambda split, index: f"{split} {index}".encode())
    assert list(demo_photos.read_photos(tmp_path)) == [
        (scene(split, i).id, f"{split} {i}".encode())
        for split, number in SCENES.items()
        for i in range(number)
    ]
    assert not list(tmp_path.iterdir())


def test_a_photo_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        photo("test", SCENES["test"])


def test_all_that_scenes_name_can_be_drawn():
    assert set(DRAWINGS) == {*KINDS, *PROPS}
    assert set(PAINTS) == set(COLOURS)
    assert set(SHADOWS) == set(SETTINGS)


@pytest.mark.parametrize("index", range(36))
def test_the_subjects_colour_is_where_the_subject_is(index):
    shown = scene("test", index)
    other = COLOURS[(COLOURS.index(shown.colour) + 3) % len(COLOURS)]
    size = 256
    one, two = (np.asarray(render(s, size), int) for s in (shown, recoloured(shown, other)))
    square = inside(shown, size)
    # Nothing else changes with it ...
    assert not (one != two).any(-1)[~square].any()
    # ... and there it is: a good part of the square is nearest to that colour.
    paints = np.array([PAINTS[name] for name in COLOURS])
    for picture, colour in ((one, shown.colour), (two, other)):
        distances = abs(picture[:, :, None] - paints).sum(-1)
        near = (distances.argmin(-1) == COLOURS.index(colour)) & (distances.min(-1) < 90)
        changed = (one != two).any(-1)
        assert near[changed].mean() > 0.2, colour


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_can_be_seen_in_every_setting(setting, colour):
    """White on snow and black at night too: what a thing covers is not what was behind it."""
    shown = dataclasses.replace(recoloured(scene("test", 1), colour), setting=setting)
    bare = dataclasses.replace(shown, things=(shown.things[-1],))
    drawn, background = (np.asarray(render(s), int) for s in (shown, bare))
    assert (abs(drawn - background).max(-1) > 60).sum() > 300


def test_the_setting_can_be_told_from_very_few_pixels():
    """By the nearest of 240 training photos, at 8 x 8 pixels."""

    def shrunk(split: str, number: int) -> np.ndarray:
        return np.stack(
            [np.asarray(render(scene(split, i), 8), float).ravel() for i in range(number)]
        )

    train, dev = shrunk("train", 240), shrunk("dev", 80)
    nearest = ((dev[:, None] - train) ** 2).sum(-1).argmin(1)
    right = [scene("train", n).setting == scene("dev", i).setting for i, n in enumerate(nearest)]
    assert np.mean(right) > 0.8
