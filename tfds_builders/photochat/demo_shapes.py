"""The few shapes that the photos of "photochat/demo" are drawn with.

Points are (x, y), y downwards. Only sums, products and quotients are used: they give the same
numbers on every machine, which sines do not.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

Point = tuple[float, float]
RGB = tuple[int, int, int]
# "body" is the colour that the scene names, "shade" and "light" are darker and paler than it;
# "ink" is the colour of outlines.
Paint = str | RGB


class Shape(NamedTuple):
    """A filled outline, or where `width` is given an open line of that width.

    `inked`: with an outline around it.
    """

    points: tuple[Point, ...]
    paint: Paint
    width: float = 0.0
    inked: bool = True


def area(paint: Paint, *points: Point, inked: bool = True) -> Shape:
    """A polygon."""
    return Shape(points, paint, inked=inked)


def box(
    paint: Paint, left: float, top: float, right: float, bottom: float, inked: bool = True
) -> Shape:
    return area(paint, (left, top), (right, top), (right, bottom), (left, bottom), inked=inked)


def oval(paint: Paint, x: float, y: float, rx: float, ry: float = 0.0, inked: bool = True) -> Shape:
    """An ellipse about (x, y), a circle where `ry` is not given."""
    return area(paint, *((x + rx * a, y + (ry or rx) * b) for a, b in _CIRCLE), inked=inked)


def smooth(paint: Paint, *points: Point, inked: bool = True) -> Shape:
    """A polygon with its corners cut three times (Chaikin, 1974)."""
    for _ in range(3):
        after = (*points[1:], points[0])
        points = tuple(
            point
            for a, b in zip(points, after, strict=True)
            for point in (_between(a, b, 0.25), _between(a, b, 0.75))
        )
    return area(paint, *points, inked=inked)


def line(paint: Paint, width: float, *points: Point, inked: bool = False) -> Shape:
    """An open line with rounded corners, ends and bends."""
    for _ in range(2 if len(points) > 2 else 0):
        cut = [
            point
            for a, b in pairwise(points)
            for point in (_between(a, b, 0.25), _between(a, b, 0.75))
        ]
        points = (points[0], *cut[1:-1], points[-1])
    return Shape(points, paint, width, inked)


def moved(
    shape: Shape,
    x: float,
    y: float,
    scale: float = 1.0,
    *,
    mirrored: bool = False,
    tilt: float = 0.0,
) -> Shape:
    """The shape turned about the origin by 2 atan(`tilt`), scaled, then moved by (x, y)."""
    cos, sin = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)
    side = -1 if mirrored else 1
    points = tuple(
        (x + side * scale * (cos * a - sin * b), y + scale * (sin * a + cos * b))
        for a, b in shape.points
    )
    return shape._replace(points=points, width=shape.width * scale)


def mixed(a: RGB, b: RGB, share: float) -> RGB:
    """A colour between two: `a` where `share` is 0, `b` where it is 1."""
    red, green, blue = (int(p + (q - p) * share + 0.5) for p, q in zip(a, b, strict=True))
    return red, green, blue


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _circle() -> tuple[Point, ...]:
    # cos and sin of 2 atan(t) are quotients of polynomials in t.
    quarter = [((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)) for t in (k / 6 for k in range(6))]
    half = quarter + [(-b, a) for a, b in quarter]
    return (*half, *((-a, -b) for a, b in half))


_CIRCLE = _circle()
