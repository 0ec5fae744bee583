"""How each kind of thing and each prop of "photochat/demo" is drawn.

Each stands in a square from -0.5 to 0.5 in both directions, its feet at y = 0.48.
"""

from __future__ import annotations

from tfds_builders.photochat.demo_shapes import Shape, area, box, line, oval, smooth

WHITE, GREY, BROWN, WOOD = (255, 255, 255), (150, 152, 160), (120, 78, 48), (176, 126, 80)
GLASS, GOLD, LEAF, PINK = (200, 230, 242), (255, 205, 60), (62, 130, 62), (240, 120, 130)
BEAK, FLAME, TYRE = (246, 160, 50), (255, 150, 40), (58, 56, 64)


# Rows of points read better than columns.
# fmt: off


def _eye(x: float, y: float, size: float) -> tuple[Shape, ...]:
    return (
        oval(WHITE, x, y, size, inked=False),
        oval((30, 28, 36), x + size * 0.25, y, size * 0.62, inked=False),
    )


def _dog() -> tuple[Shape, ...]:
    return (
        line("body", 0.09, (-0.34, 0.02), (-0.47, -0.05), (-0.46, -0.3), inked=True),
        line("shade", 0.1, (-0.2, 0.15), (-0.2, 0.42), inked=True),
        line("shade", 0.1, (0.19, 0.15), (0.19, 0.42), inked=True),
        line("body", 0.11, (-0.32, 0.12), (-0.33, 0.42), inked=True),
        line("body", 0.11, (0.07, 0.12), (0.07, 0.42), inked=True),
        smooth(
            "body", (-0.46, -0.12), (-0.1, -0.08), (0.08, -0.24), (0.3, -0.2), (0.3, 0.24),
            (0.0, 0.22), (-0.1, 0.19), (-0.46, 0.26),
        ),
        oval("body", -0.32, 0.12, 0.05, 0.12, inked=False),
        oval("body", 0.07, 0.14, 0.05, 0.12, inked=False),
        line((226, 60, 70), 0.06, (0.1, -0.08), (0.2, 0.0), (0.31, -0.03)),
        smooth("body", (0.06, -0.48), (0.34, -0.5), (0.36, -0.28), (0.52, -0.26), (0.5, -0.04),
               (0.18, -0.02), (0.05, -0.18)),
        oval((30, 28, 36), 0.465, -0.21, 0.042, 0.034, inked=False),
        line("ink", 0.018, (0.44, -0.1), (0.36, -0.09), (0.33, -0.12)),
        smooth("shade", (0.02, -0.48), (0.18, -0.46), (0.15, -0.2), (0.08, -0.06), (-0.04, -0.12)),
        *_eye(0.29, -0.29, 0.042),
    )


def _bird() -> tuple[Shape, ...]:
    return (
        line(BEAK, 0.035, (-0.02, 0.28), (-0.02, 0.47), (0.07, 0.48)),
        line(BEAK, 0.035, (0.1, 0.28), (0.1, 0.47), (0.19, 0.48)),
        area("shade", (-0.2, 0.0), (-0.48, -0.06), (-0.5, 0.1), (-0.2, 0.2)),
        area(BEAK, (0.34, -0.3), (0.5, -0.2), (0.33, -0.15)),
        smooth("body", (-0.42, 0.02), (-0.1, -0.06), (0.0, -0.48), (0.36, -0.52), (0.46, -0.16),
               (0.36, 0.3), (0.05, 0.4), (-0.22, 0.3)),
        smooth("light", (0.16, 0.0), (0.35, -0.04), (0.3, 0.24), (0.08, 0.33), (0.02, 0.22),
               inked=False),
        smooth("shade", (-0.3, 0.03), (-0.02, -0.06), (0.16, 0.0), (0.12, 0.18), (-0.08, 0.24),
               (-0.38, 0.2)),
        *_eye(0.23, -0.26, 0.055),
    )


def _car() -> tuple[Shape, ...]:
    return (
        smooth("body", (-0.3, 0.1), (-0.24, -0.22), (-0.1, -0.24), (0.1, -0.24), (0.2, -0.22),
               (0.36, 0.1)),
        smooth(GLASS, (-0.23, 0.05), (-0.18, -0.17), (-0.1, -0.17), (-0.03, -0.17), (-0.03, 0.05)),
        smooth(GLASS, (0.03, 0.05), (0.03, -0.17), (0.09, -0.17), (0.15, -0.17), (0.26, 0.05)),
        smooth("body", (-0.5, 0.02), (-0.4, -0.02), (0.3, -0.01), (0.46, 0.04), (0.51, 0.16),
               (0.5, 0.35), (-0.5, 0.35), (-0.5, 0.2)),
        line("shade", 0.035, (-0.44, 0.26), (0.44, 0.26)),
        line("ink", 0.018, (0.0, 0.06), (0.0, 0.27)),
        line("ink", 0.022, (0.05, 0.1), (0.11, 0.1)),
        oval(GOLD, 0.445, 0.13, 0.045, 0.055),
        *(oval(TYRE, x, 0.34, 0.14) for x in (-0.27, 0.28)),
        *(oval((215, 217, 224), x, 0.34, 0.065, inked=False) for x in (-0.27, 0.28)),
    )


def _boat() -> tuple[Shape, ...]:
    return (
        line(BROWN, 0.04, (-0.02, 0.25), (-0.02, -0.48), inked=True),
        area("body", (0.03, -0.44), (0.42, 0.14), (0.03, 0.14)),
        area("light", (-0.07, -0.32), (-0.36, 0.14), (-0.07, 0.14)),
        area("body", (-0.02, -0.5), (-0.2, -0.45), (-0.02, -0.4)),
        smooth("body", (-0.52, 0.2), (-0.48, 0.2), (0.48, 0.2), (0.54, 0.2), (0.3, 0.5),
               (-0.34, 0.5)),
        line("light", 0.04, (-0.38, 0.285), (0.38, 0.285)),
        *(oval(WHITE, x, 0.37, 0.032, inked=False) for x in (-0.16, 0.0, 0.16)),
    )


def _bicycle() -> tuple[Shape, ...]:
    wheels = (-0.28, 0.28)
    rims = [
        Shape((*circle.points, *circle.points[:2]), "body", 0.055)
        for circle in (oval("body", x, 0.27, 0.19) for x in wheels)
    ]
    spokes = [
        line(GREY, 0.014, (x + a, 0.27 + b), (x - a, 0.27 - b))
        for x in wheels
        for a, b in ((0.16, 0.0), (0.0, 0.16), (0.11, 0.11), (0.11, -0.11))
    ]
    return (
        *spokes,
        *rims,
        line("body", 0.06, (-0.28, 0.27), (-0.12, -0.06), inked=True),
        line("body", 0.06, (-0.28, 0.27), (0.0, 0.27), inked=True),
        line("body", 0.06, (0.28, 0.27), (0.18, -0.16), inked=True),
        line("body", 0.06, (0.0, 0.27), (0.2, -0.04), inked=True),
        line("body", 0.06, (-0.12, -0.06), (0.2, -0.06), inked=True),
        line("body", 0.06, (0.0, 0.27), (-0.14, -0.12), inked=True),
        smooth(TYRE, (-0.28, -0.2), (-0.04, -0.2), (-0.04, -0.13), (-0.2, -0.1)),
        line(TYRE, 0.05, (0.18, -0.16), (0.17, -0.24), (0.28, -0.28), (0.31, -0.18)),
        oval(GREY, 0.0, 0.27, 0.055),
        line(TYRE, 0.035, (0.0, 0.27), (0.05, 0.38), (0.09, 0.38)),
    )


def _house() -> tuple[Shape, ...]:
    panes = [
        shape
        for x in (-0.2, 0.23)
        for shape in (
            box((255, 236, 150), x - 0.08, 0.04, x + 0.08, 0.2),
            line("ink", 0.016, (x, 0.04), (x, 0.2)),
            line("ink", 0.016, (x - 0.08, 0.12), (x + 0.08, 0.12)),
        )
    ]
    return (
        box("shade", 0.17, -0.46, 0.29, -0.12),
        box("body", -0.37, -0.1, 0.37, 0.48),
        area("shade", (0.0, -0.5), (0.48, -0.06), (-0.48, -0.06)),
        oval(GLASS, 0.0, -0.2, 0.065),
        *panes,
        smooth(BROWN, (-0.075, 0.48), (-0.075, 0.48), (-0.075, 0.16), (0.1, 0.16), (0.1, 0.48),
               (0.1, 0.48)),
        oval(GOLD, 0.06, 0.34, 0.022, inked=False),
    )


def _kite() -> tuple[Shape, ...]:
    return (
        line("ink", 0.016, (0.0, -0.16), (0.2, 0.14), (0.36, 0.5)),
        line("shade", 0.03, (0.0, 0.12), (-0.16, 0.22), (0.06, 0.34), (-0.1, 0.5)),
        *(
            area("body", (x, y), (x - 0.1, y - 0.05), (x - 0.1, y + 0.05), (x, y),
                 (x + 0.1, y - 0.05), (x + 0.1, y + 0.05))
            for x, y in ((-0.05, 0.24), (-0.01, 0.38))
        ),
        area("body", (0.0, -0.5), (0.34, -0.2), (0.0, 0.14), (-0.34, -0.2)),
        area("light", (0.0, -0.5), (0.34, -0.2), (0.0, -0.2), inked=False),
        area("light", (0.0, 0.14), (-0.34, -0.2), (0.0, -0.2), inked=False),
        line("ink", 0.02, (0.0, -0.5), (0.0, 0.14)),
        line("ink", 0.02, (-0.34, -0.2), (0.34, -0.2)),
    )


def _flower() -> tuple[Shape, ...]:
    petals = ((0.0, -0.2), (0.173, -0.1), (0.173, 0.1), (0.0, 0.2), (-0.173, 0.1), (-0.173, -0.1))
    return (
        line(LEAF, 0.055, (0.0, 0.0), (0.03, 0.25), (0.0, 0.48), inked=True),
        smooth(LEAF, (0.02, 0.42), (0.1, 0.2), (0.36, 0.16), (0.28, 0.38)),
        smooth(LEAF, (0.0, 0.46), (-0.1, 0.26), (-0.36, 0.24), (-0.26, 0.44)),
        *(oval("body", x, y - 0.15, 0.145) for x, y in petals),
        *(oval("light", 0.75 * x, 0.75 * y - 0.15, 0.055, inked=False) for x, y in petals),
        oval((236, 170, 40), 0.0, -0.15, 0.11),
        oval((190, 120, 30), 0.0, -0.15, 0.05, inked=False),
    )


def _cake() -> tuple[Shape, ...]:
    candles = [
        shape
        for x in (-0.14, 0.0, 0.14)
        for shape in (
            box(WHITE, x - 0.025, -0.34, x + 0.025, -0.12),
            smooth(FLAME, (x, -0.52), (x + 0.05, -0.4), (x, -0.33), (x - 0.05, -0.4)),
        )
    ]
    return (
        oval((226, 228, 236), 0.0, 0.43, 0.5, 0.06),
        *candles,
        box("body", -0.28, -0.14, 0.28, 0.14),
        _icing(0.28, -0.14),
        box("body", -0.42, 0.1, 0.42, 0.43),
        _icing(0.42, 0.1),
        *(oval("shade", x, 0.36, 0.04, inked=False) for x in (-0.32, -0.16, 0.0, 0.16, 0.32)),
    )


def _icing(half: float, top: float) -> Shape:
    step = half / 3
    drips = [
        (half - step * (k + side), top + (0.12 if k % 2 else 0.06))
        for k in range(6)
        for side in (0.0, 0.5)
    ]
    return smooth(
        "light", (-half - 0.03, top - 0.03), (half + 0.03, top - 0.03), (half + 0.02, top + 0.05),
        *drips, (-half - 0.02, top + 0.05),
    )


def _tree() -> tuple[Shape, ...]:
    crown = ((-0.19, -0.1, 0.19), (0.19, -0.1, 0.19), (0.0, -0.27, 0.22), (0.0, 0.0, 0.19))
    return (
        smooth(BROWN, (-0.06, 0.0), (0.06, 0.0), (0.05, 0.4), (0.13, 0.49), (-0.13, 0.49),
               (-0.05, 0.4)),
        *(oval("body", x, y, r) for x, y, r in crown),
        *(oval("body", x, y, r, inked=False) for x, y, r in crown),
        *(oval("light", x, y, 0.055, inked=False) for x, y in ((-0.1, -0.33), (-0.24, -0.15))),
        *(
            oval("shade", x, y, 0.045, inked=False)
            for x, y in ((0.18, -0.02), (0.0, 0.08), (0.24, -0.16), (0.02, -0.12))
        ),
    )


def _bench() -> tuple[Shape, ...]:
    return (
        *(line(TYRE, 0.05, (x, -0.12), (x, 0.46)) for x in (-0.34, 0.34)),
        *(line(TYRE, 0.05, (x, 0.16), (1.2 * x, 0.46)) for x in (-0.34, 0.34)),
        box("body", -0.48, -0.16, 0.48, -0.05),
        box("body", -0.48, -0.01, 0.48, 0.1),
        area("light", (-0.44, 0.14), (0.44, 0.14), (0.5, 0.22), (-0.5, 0.22)),
        box("body", -0.5, 0.21, 0.5, 0.28),
    )


def _umbrella() -> tuple[Shape, ...]:
    return (
        line(WOOD, 0.045, (0.0, -0.4), (0.0, 0.47), inked=True),
        smooth("body", (-0.5, 0.02), (-0.5, 0.02), (-0.46, -0.28), (-0.18, -0.44), (0.0, -0.45),
               (0.18, -0.44), (0.46, -0.28), (0.5, 0.02), (0.5, 0.02), (0.33, -0.08), (0.17, 0.02),
               (0.0, -0.08), (-0.17, 0.02), (-0.33, -0.08)),
        area("light", (0.0, -0.41), (0.1, -0.27), (0.15, -0.02), (0.0, -0.05), (-0.15, -0.02),
             (-0.1, -0.27), inked=False),
        line("ink", 0.016, (0.0, -0.42), (-0.13, -0.25), (-0.16, -0.02)),
        line("ink", 0.016, (0.0, -0.42), (0.13, -0.25), (0.16, -0.02)),
        oval("shade", 0.0, -0.44, 0.035),
    )


def _lamp() -> tuple[Shape, ...]:
    return (
        line("body", 0.075, (0.0, -0.16), (0.0, 0.44), inked=True),
        smooth("body", (-0.2, 0.49), (-0.16, 0.38), (0.16, 0.38), (0.2, 0.49)),
        area((255, 240, 160), (-0.13, -0.36), (0.13, -0.36), (0.09, -0.1), (-0.09, -0.1)),
        oval(GOLD, 0.0, -0.22, 0.05, 0.07, inked=False),
        area("body", (-0.25, -0.33), (-0.1, -0.46), (0.1, -0.46), (0.25, -0.33)),
        box("body", -0.13, -0.12, 0.13, -0.06),
        oval("body", 0.0, -0.475, 0.035),
    )


def _bucket() -> tuple[Shape, ...]:
    return (
        line(GREY, 0.035, (-0.34, -0.1), (-0.32, -0.52), (0.32, -0.52), (0.34, -0.1), inked=True),
        area("body", (-0.37, -0.1), (0.37, -0.1), (0.26, 0.47), (-0.26, 0.47)),
        area("light", (-0.27, 0.0), (-0.17, 0.0), (-0.12, 0.4), (-0.19, 0.4), inked=False),
        line("shade", 0.04, (-0.31, 0.22), (0.31, 0.22)),
        oval("body", 0.0, -0.1, 0.39, 0.09),
        oval("shade", 0.0, -0.1, 0.31, 0.055, inked=False),
    )


def _fence() -> tuple[Shape, ...]:
    pickets = [
        area("body", (x - 0.08, 0.48), (x - 0.08, -0.14), (x, -0.26), (x + 0.08, -0.14),
             (x + 0.08, 0.48))
        for x in (-0.4, -0.2, 0.0, 0.2, 0.4)
    ]
    rails = [box("shade", -0.5, y, 0.5, y + 0.09) for y in (-0.04, 0.28)]
    return (*rails, *pickets)


DRAWINGS: dict[str, tuple[Shape, ...]] = {
    "dog": _dog(),
    "bird": _bird(),
    "car": _car(),
    "boat": _boat(),
    "bicycle": _bicycle(),
    "house": _house(),
    "kite": _kite(),
    "flower": _flower(),
    "cake": _cake(),
    "tree": _tree(),
    "bench": _bench(),
    "umbrella": _umbrella(),
    "lamp": _lamp(),
    "bucket": _bucket(),
    "fence": _fence(),
}
