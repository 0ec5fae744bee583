"""The photos of "photochat/demo": each scene, drawn.

`drawing(scene)` says what is drawn, as polygons and lines on a fine grid of whole numbers;
`render` draws that with Pillow, four times as large, and reduces it. The drawing is the same on
every machine, and `PHOTOS_DIGEST` is over all drawings. Edges may differ by a shade, and encoded
files by more, between versions of Pillow: neither is part of what is frozen.

Shade of colour, tilt, mirroring, clouds and the like vary from scene to scene.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from tfds_builders.photochat.demo_scenes import SCENES, Scene, Thing, scene
from tfds_builders.photochat.demo_settings import SHADOWS, background
from tfds_builders.photochat.demo_shapes import RGB, Paint, Shape, mixed, moved, oval
from tfds_builders.photochat.demo_things import DRAWINGS

# `photos_digest()`, written down so that opening the photos need not draw them; a test compares.
PHOTOS_DIGEST = "d58bcecae9654812dd2e0bb02f0fd9d6aa2792038fd15adc689aaac69f36a25f"

SIZE = 128  # of the photos, in pixels
GRID = 4096  # drawings are this wide and high
FINER = 4  # a picture is drawn so much larger than it will be
PAINTS: dict[str, RGB] = {
    "red": (218, 38, 44),
    "orange": (248, 132, 20),
    "yellow": (252, 216, 30),
    "green": (34, 142, 58),
    "blue": (36, 86, 208),
    "purple": (150, 54, 184),
    "white": (252, 252, 252),
    "black": (46, 46, 54),
}
INK, MOONLIGHT = (38, 34, 46), (186, 196, 226)


class Stroke(NamedTuple):
    """A polygon filled with `paint`, or where `width` > 0 a line; all in units of the grid."""

    points: tuple[tuple[int, int], ...]
    paint: RGB
    width: int = 0


def read_photos(folder: Any) -> Iterator[tuple[str, bytes]]:
    """Every photo's id and file, each once, all splits; nothing is put into `folder`."""
    for split in SCENES:
        for index in range(SCENES[split]):
            yield scene(split, index).id, photo(split, index)


def photo(split: str, index: int) -> bytes:
    """Scene number `index` of a split as a PNG file, RGB, 128 x 128."""
    file = io.BytesIO()
    render(scene(split, index)).save(file, "PNG", compress_level=6)
    return file.getvalue()


def photos_digest() -> str:
    """SHA-256 over what is drawn for every scene, and how finely: the photos are frozen."""
    found = hashlib.sha256(json.dumps([SIZE, GRID, FINER]).encode())
    for split in SCENES:
        for index in range(SCENES[split]):
            found.update(json.dumps(drawing(scene(split, index))).encode())
    return found.hexdigest()


def render(shown: Scene, size: int = SIZE) -> Image.Image:
    """The scene as an RGB picture of `size` x `size` pixels."""
    large = FINER * size
    image = Image.new("RGB", (large, large))
    draw, scale = ImageDraw.Draw(image), large / GRID
    for stroke in drawing(shown):
        points = [(x * scale, y * scale) for x, y in stroke.points]
        if stroke.width:
            _draw_line(draw, points, stroke.paint, stroke.width * scale)
        else:
            draw.polygon(points, fill=stroke.paint)
    return image.reduce(FINER)


def drawing(shown: Scene) -> list[Stroke]:
    """What to draw for a scene, from back to front."""
    rng = random.Random(f"mmjax demo photos 1 {shown.id}")
    strokes = [_stroke(shape, shape.paint) for shape in background(shown.setting, rng)]
    *subjects, prop = shown.things
    for thing in (prop, *subjects):  # the subject is never hidden
        strokes += _thing(thing, shown.setting, rng)
    return strokes


def _thing(thing: Thing, setting: str, rng: random.Random) -> list[Stroke]:
    flies = thing.kind == "kite"
    mirrored = rng.random() < 0.5
    tilt = (0.22 if flies else 0.03) * (2 * rng.random() - 1)
    paints = _paints(thing.colour, rng)
    ink = round(GRID * (0.004 + 0.016 * thing.size))
    drawn = []
    for shape in DRAWINGS[thing.kind]:
        placed = moved(shape, thing.x, thing.y, thing.size, mirrored=mirrored, tilt=tilt)
        paint = paints[shape.paint] if isinstance(shape.paint, str) else shape.paint
        drawn.append((shape.inked, _stroke(placed, paint)))
    strokes = []
    if not flies:
        foot = thing.y + 0.47 * thing.size
        shadow = oval("", thing.x, foot, 0.5 * thing.size, 0.09 * thing.size)
        strokes.append(_stroke(shadow, SHADOWS[setting]))
    if setting == "night":  # else dark things were lost in the dark
        strokes += [_outline(stroke, MOONLIGHT, 2 * ink + 10) for _, stroke in drawn]
    for inked, stroke in drawn:
        strokes += [_outline(stroke, paints["ink"], ink), stroke] if inked else [stroke]
    return strokes


def _paints(colour: str, rng: random.Random) -> dict[Paint, RGB]:
    body = mixed(PAINTS[colour], (255, 255, 255), 0.08 * rng.random())
    body = mixed(body, (0, 0, 0), 0.08 * rng.random())
    dark = colour == "black"
    return {
        "body": body,
        "shade": mixed(body, (20, 20, 50), 0.28 if not dark else 0.5),
        "light": mixed(body, (255, 255, 255), 0.45 if not dark else 0.3),
        "ink": INK if not dark else (8, 8, 12),
    }


def _outline(stroke: Stroke, paint: RGB, ink: int) -> Stroke:
    """A line of the width `ink` around a stroke that is to be drawn over it."""
    if stroke.width:
        return Stroke(stroke.points, paint, stroke.width + 2 * ink)
    return Stroke((*stroke.points, *stroke.points[:2]), paint, 2 * ink)


def _stroke(shape: Shape, paint: RGB) -> Stroke:
    points = tuple([(round(x * GRID), round(y * GRID)) for x, y in shape.points])
    return Stroke(points, paint, round(shape.width * GRID))


def _draw_line(draw: Any, points: list[tuple[float, float]], paint: RGB, width: float) -> None:
    joint = "curve" if len(points) < 30 else None  # of many points the bends are slight
    draw.line(points, fill=paint, width=max(1, round(width)), joint=joint)
    if width > FINER:
        half = width / 2
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - half, y - half, x + half, y + half), fill=paint)
