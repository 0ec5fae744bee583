"""How the settings of "photochat/demo" are drawn: the whole photo, on which things are put later.

Coordinates are fractions of the photo's width and height. Things stand below y = 0.74, so that is
ground everywhere. What `rng` varies (clouds, hills, the hour of the day) tells nothing of a scene.
"""

from __future__ import annotations

import random

from tfds_builders.photochat.demo_shapes import (
    RGB,
    Shape,
    area,
    box,
    line,
    mixed,
    moved,
    oval,
    smooth,
)

WHITE, SUN, MOON = (255, 255, 255), (255, 236, 150), (250, 244, 206)
# What a thing's shadow on the ground looks like.
SHADOWS: dict[str, RGB] = {
    "beach": (218, 192, 140),
    "meadow": (122, 180, 84),
    "snow": (184, 200, 224),
    "street": (96, 98, 108),
    "night": (26, 40, 52),
    "desert": (212, 160, 96),
    "lake": (104, 148, 84),
    "park": (96, 150, 76),
}


def background(setting: str, rng: random.Random) -> list[Shape]:
    """What lies behind the things, from the sky down."""
    draw = {
        "beach": _beach,
        "meadow": _meadow,
        "snow": _snow,
        "street": _street,
        "night": _night,
        "desert": _desert,
        "lake": _lake,
        "park": _park,
    }[setting]
    return draw(rng)


def _beach(rng: random.Random) -> list[Shape]:
    sea = mixed((44, 156, 196), (30, 132, 186), rng.random())
    waves = [
        line((190, 230, 240), 0.008, (x, y), (x + 0.04, y - 0.01), (x + 0.08, y))
        for x, y in _spots(rng, 9, 0.44, 0.56)
    ]
    shells = [
        smooth((250, 226, 206), (x, y), (x + 0.03, y + 0.01), (x + 0.015, y + 0.03), inked=False)
        for x, y in _spots(rng, 4, 0.74, 0.97)
    ]
    shore = 0.58 + 0.03 * rng.random()
    return [
        *_sky((112, 192, 240), (206, 236, 250), 0.44, rng),
        *_sun(rng),
        *_clouds(rng, 2),
        *_bands(sea, mixed(sea, (150, 222, 226), 0.6), 0.42, 0.7, 7),
        *waves,
        _ground((250, 252, 250), shore, 0.02, rng),
        _ground((226, 202, 150), shore + 0.022, 0.02, rng),
        _ground((244, 222, 172), shore + 0.05, 0.02, rng),
        *_specks((224, 198, 146), 22, 0.72, 0.99, rng),
        *shells,
    ]


def _meadow(rng: random.Random) -> list[Shape]:
    tufts = [
        line((116, 178, 76), 0.009, (x + lean, y - 0.05), (x, y))
        for x, y in _spots(rng, 30, 0.66, 1.0)
        for lean in (-0.018, 0.004, 0.022)
    ]
    return [
        *_sky((120, 196, 244), (222, 242, 252), 0.5, rng),
        *_sun(rng),
        *_clouds(rng, 3),
        _hill((150, 200, 130), 0.44, rng),
        _hill((164, 212, 118), 0.5, rng),
        _ground((158, 212, 104), 0.57, 0.03, rng),
        _ground((148, 206, 98), 0.74, 0.03, rng),
        *tufts,
        *_specks((252, 250, 220), 14, 0.6, 0.99, rng),
    ]


def _snow(rng: random.Random) -> list[Shape]:
    firs = [
        area(paint, (x - half, y), (x, y - high), (x + half, y), inked=False)
        for x in _steps(rng, 9)
        for y in (0.56,)
        for paint, half, high in (
            ((104, 138, 138), 0.05, 0.2),
            ((238, 244, 250), 0.026, 0.2),
            ((104, 138, 138), 0.045, 0.13),
        )
    ]
    flakes = [oval(WHITE, x, y, 0.009, inked=False) for x, y in _spots(rng, 34, 0.02, 0.98)]
    return [
        *_sky((166, 184, 208), (220, 230, 242), 0.55, rng),
        _hill((206, 218, 234), 0.4, rng),
        *firs,
        _ground((216, 228, 244), 0.55, 0.03, rng),
        _ground((226, 236, 249), 0.64, 0.04, rng),
        _ground((232, 240, 251), 0.78, 0.03, rng),
        *_specks((250, 252, 255), 12, 0.66, 0.99, rng),
        *flakes,
    ]


def _street(rng: random.Random) -> list[Shape]:
    fronts: list[Shape] = []
    walls = ((196, 150, 132), (204, 188, 160), (160, 170, 182), (186, 160, 150), (176, 184, 168))
    left, turn = -0.1 * rng.random(), int(rng.random() * len(walls))
    while left < 1:
        wide, top = 0.17 + 0.07 * rng.random(), 0.12 + 0.2 * rng.random()
        wall = walls[turn % len(walls)]
        dark = mixed(wall, (70, 66, 84), 0.45)
        fronts += [
            box(wall, left, top, left + wide, 0.62, inked=False),
            box(dark, left - 0.005, top - 0.02, left + wide + 0.005, top + 0.012, inked=False),
            box(mixed(wall, dark, 0.35), left, 0.51, left + wide, 0.62, inked=False),
        ]
        fronts += [
            box((232, 238, 226) if rng.random() < 0.3 else dark, x, y, x + 0.035, y + 0.055, False)
            for y in (top + 0.05 + 0.1 * k for k in range(int((0.47 - top) / 0.1)))
            for x in (left + wide * share - 0.0175 for share in (0.22, 0.5, 0.78))
        ]
        left, turn = left + wide, turn + 1
    start = -0.2 * rng.random()
    dashes = [
        area(
            (244, 240, 220),
            (x, 0.9),
            (x + 0.12, 0.9),
            (x + 0.105, 0.93),
            (x - 0.015, 0.93),
            inked=False,
        )
        for x in (start + 0.22 * k for k in range(6))
    ]
    return [
        *_sky((156, 196, 226), (220, 232, 240), 0.5, rng),
        *_clouds(rng, 1),
        *fronts,
        box((206, 204, 200), 0.0, 0.61, 1.0, 0.7, inked=False),
        box((172, 170, 170), 0.0, 0.695, 1.0, 0.715, inked=False),
        *_bands((122, 124, 134), (134, 136, 146), 0.715, 1.0, 4),
        *dashes,
    ]


def _night(rng: random.Random) -> list[Shape]:
    x, y = 0.12 + 0.76 * rng.random(), 0.1 + 0.1 * rng.random()
    sky = (30, 38, 88)
    stars = [
        smooth((255, 250, 214), (a, b - r), (a + r, b), (a, b + r), (a - r, b), inked=False)
        for k, (a, b) in enumerate(_spots(rng, 26, 0.02, 0.44))
        for r in ((0.011, 0.016, 0.023)[k % 3],)
    ]
    return [
        *_bands((16, 22, 60), (58, 66, 128), 0.0, 0.6, 12),
        *stars,
        oval(mixed(sky, MOON, 0.16), x, y, 0.125, inked=False),
        oval(MOON, x, y, 0.085, inked=False),
        *(
            oval((230, 222, 180), x + a, y + b, r, inked=False)
            for a, b, r in ((-0.03, -0.02, 0.017), (0.03, 0.015, 0.022), (-0.015, 0.04, 0.012))
        ),
        _hill((34, 46, 92), 0.46, rng),
        _hill((30, 48, 76), 0.54, rng),
        _ground((36, 58, 72), 0.62, 0.03, rng),
        _ground((42, 66, 76), 0.76, 0.03, rng),
    ]


def _desert(rng: random.Random) -> list[Shape]:
    cacti = [
        shape
        for x, size in ((0.06 + 0.34 * rng.random(), 0.13), (0.6 + 0.34 * rng.random(), 0.1))
        for shape in (
            line((104, 146, 96), 0.24 * size, (x, 0.6), (x, 0.6 - size)),
            line(
                (104, 146, 96),
                0.18 * size,
                (x, 0.6 - 0.35 * size),
                (x + 0.4 * size, 0.6 - 0.4 * size),
                (x + 0.4 * size, 0.6 - 0.8 * size),
            ),
            line(
                (104, 146, 96),
                0.18 * size,
                (x, 0.6 - 0.25 * size),
                (x - 0.35 * size, 0.6 - 0.3 * size),
                (x - 0.35 * size, 0.6 - 0.65 * size),
            ),
        )
    ]
    crest = 0.2 + 0.6 * rng.random()
    return [
        *_sky((246, 196, 130), (255, 236, 190), 0.55, rng),
        *_sun(rng, 0.1),
        area((232, 184, 120), (-0.1, 0.64), (crest - 0.1, 0.4), (crest + 0.5, 0.64), inked=False),
        area(
            (216, 164, 102),
            (crest - 0.1, 0.4),
            (crest + 0.5, 0.64),
            (crest - 0.02, 0.64),
            inked=False,
        ),
        *cacti,
        _hill((238, 196, 134), 0.57, rng),
        _ground((240, 202, 142), 0.62, 0.05, rng),
        _ground((236, 192, 128), 0.76, 0.05, rng),
        *(
            line((222, 176, 112), 0.008, (x, y), (x + 0.09, y - 0.018), (x + 0.18, y))
            for x, y in _spots(rng, 9, 0.66, 0.98)
        ),
    ]


def _lake(rng: random.Random) -> list[Shape]:
    peaks: list[Shape] = []
    for k, x in enumerate(_steps(rng, 4)):
        top = 0.17 + 0.12 * rng.random()
        rock = mixed((128, 146, 176), (108, 128, 162), k % 2)
        peaks += [
            area(rock, (x - 0.3, 0.5), (x, top), (x + 0.3, 0.5), inked=False),
            area(
                (240, 244, 250),
                (x - 0.07, top + 0.077),
                (x, top),
                (x + 0.07, top + 0.077),
                (x + 0.03, top + 0.06),
                (x, top + 0.085),
                (x - 0.03, top + 0.06),
                inked=False,
            ),
        ]
    mirror = [
        shape._replace(
            points=tuple((x, 0.5 + 0.45 * (0.5 - y)) for x, y in shape.points),
            paint=mixed((92, 160, 206), (108, 136, 172), 0.45),
        )
        for shape in peaks[::2]
    ]
    side = 0.06 if rng.random() < 0.5 else 0.8
    reeds = [
        shape
        for k in range(5)
        for x in (side + 0.035 * k,)
        for y in (0.6 - 0.04 * rng.random(),)
        for shape in (
            line((92, 132, 70), 0.01, (x, 0.76), (x + 0.01, y)),
            line((126, 88, 58), 0.022, (x + 0.01, y + 0.03), (x + 0.01, y - 0.02)),
        )
    ]
    return [
        *_sky((134, 196, 236), (220, 238, 248), 0.5, rng),
        *_clouds(rng, 2),
        *peaks,
        box((112, 150, 112), 0.0, 0.475, 1.0, 0.505, inked=False),
        *_bands((92, 160, 206), (126, 192, 222), 0.5, 0.78, 6),
        *mirror,
        *(
            line((206, 234, 244), 0.008, (x, y), (x + 0.14, y))
            for x, y in _spots(rng, 9, 0.53, 0.7)
        ),
        *reeds,
        _ground((214, 204, 168), 0.715, 0.015, rng),
        _ground((134, 180, 104), 0.735, 0.02, rng),
        *_specks((112, 158, 86), 16, 0.79, 0.99, rng),
    ]


def _park(rng: random.Random) -> list[Shape]:
    leaves = ((226, 168, 62), (204, 132, 60), (232, 190, 84), (190, 156, 72))
    trees = [
        shape
        for k, x in enumerate(_steps(rng, 7))
        for y in (0.36 + 0.05 * rng.random(),)
        for shape in (
            box((128, 100, 78), x - 0.013, y, x + 0.013, 0.57, inked=False),
            oval(leaves[k % 4], x, y, 0.1, 0.12, inked=False),
            oval(mixed(leaves[k % 4], WHITE, 0.2), x - 0.03, y - 0.04, 0.045, 0.05, inked=False),
        )
    ]
    sway = 0.3 * rng.random() - 0.15
    path = smooth(
        (232, 214, 178),
        (0.46 + sway, 0.56),
        (0.5 + sway, 0.56),
        (0.62, 0.64),
        (0.44, 0.72),
        (0.6, 0.86),
        (1.0, 1.1),
        (0.2, 1.1),
        (0.26, 0.84),
        (0.3, 0.72),
        (0.48, 0.64),
        inked=False,
    )
    return [
        *_sky((150, 202, 234), (226, 238, 240), 0.5, rng),
        *_clouds(rng, 1),
        *trees,
        _ground((132, 182, 92), 0.55, 0.01, rng),
        _ground((122, 176, 88), 0.7, 0.02, rng),
        moved(path, sway, 0.0) if rng.random() < 0.5 else moved(path, 1 + sway, 0.0, mirrored=True),
        *(
            moved(
                smooth(
                    leaves[k % 4], (0.0, -0.5), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), inked=False
                ),
                x,
                y,
                0.026,
            )
            for k, (x, y) in enumerate(_spots(rng, 16, 0.6, 0.99))
        ),
    ]


def _sky(top: RGB, bottom: RGB, horizon: float, rng: random.Random) -> list[Shape]:
    late = mixed(top, (244, 190, 170), 0.25 * rng.random())
    dim = 0.12 * rng.random()
    return _bands(
        mixed(late, (90, 100, 130), dim),
        mixed(bottom, (140, 150, 170), dim),
        0.0,
        horizon + 0.1,
        12,
    )


def _bands(top: RGB, bottom: RGB, start: float, end: float, number: int) -> list[Shape]:
    step = (end - start) / number
    return [
        box(mixed(top, bottom, k / (number - 1)), 0.0, start + k * step, 1.0, end, inked=False)
        for k in range(number)
    ]


def _sun(rng: random.Random, size: float = 0.075) -> list[Shape]:
    x, y = 0.08 + 0.84 * rng.random(), 0.1 + 0.12 * rng.random()
    return [
        oval((255, 244, 206), x, y, 1.3 * size, inked=False),
        oval(SUN, x, y, size, inked=False),
    ]


def _clouds(rng: random.Random, most: int) -> list[Shape]:
    puffs = (
        (-0.1, 0.01, 0.045),
        (-0.035, -0.025, 0.06),
        (0.045, -0.01, 0.052),
        (0.11, 0.012, 0.04),
    )
    return [
        oval(paint, x + size * a, y + down + size * b, size * r, 0.8 * size * r, inked=False)
        for _ in range(1 + int(rng.random() * most))
        for x, y, size in ((rng.random(), 0.06 + 0.22 * rng.random(), 0.7 + 0.6 * rng.random()),)
        for paint, down in (((214, 226, 236), 0.012), ((253, 254, 255), 0.0))
        for a, b, r in puffs
    ]


def _hill(paint: RGB, top: float, rng: random.Random) -> Shape:
    return _ground(paint, top + 0.03, 0.13, rng)


def _ground(paint: RGB, top: float, swing: float, rng: random.Random) -> Shape:
    """Everything below a wavy line about `top`, to the lower edge."""
    ridge = [(0.25 * k - 0.25, top + swing * (rng.random() - 0.5)) for k in range(7)]
    return smooth(paint, (-0.4, 1.3), (-0.4, top), *ridge, (1.4, top), (1.4, 1.3), inked=False)


def _specks(paint: RGB, number: int, top: float, bottom: float, rng: random.Random) -> list[Shape]:
    return [oval(paint, x, y, 0.008, 0.005, False) for x, y in _spots(rng, number, top, bottom)]


def _spots(rng: random.Random, number: int, top: float, bottom: float) -> list[tuple[float, float]]:
    return [(rng.random(), top + (bottom - top) * rng.random()) for _ in range(number)]


def _steps(rng: random.Random, number: int) -> list[float]:
    """Places from left to right, about equally far apart."""
    return [(k + rng.random()) / number for k in range(number)]
