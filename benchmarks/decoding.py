"""From an encoded photo to a square of pixels: how many a second on one core?

    python -m benchmarks.decoding --photos=DIR --out=benchmarks/results/decoding.json

Every contender decodes the same JPEGs and resizes them to the same square. mmjax alone also checks
the size of what it opens and turns the photo upright as its EXIF says (OpenCV turns it too).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks import document
from benchmarks.timing import alternate, compare
from mmjax.data.images import decode_image, squash
from mmjax.errors import UserError

SIDES = (224, 64)
LONGER_SIDE = 1024  # of the photos in Open Images' bucket
REFERENCE = "Pillow"

Contender = Callable[[bytes, int], np.ndarray]


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.decoding")
    parser.add_argument("--photos", required=True, help="folder with JPEGs")
    parser.add_argument("--count", type=int, default=64, help="photos, spread over the folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    photos = read_photos(arguments.photos, arguments.count)
    cv2.setNumThreads(1)
    return document.run(
        "decoding",
        argv,
        ("pillow", "simplejpeg", "opencv-python-headless", "numpy"),
        {"photos": len(photos), "rounds": arguments.rounds, "longer_side": LONGER_SIDE},
        lambda: measure(photos, arguments.rounds),
        arguments.out,
    )


def measure(photos: Sequence[bytes], rounds: int) -> list[dict[str, Any]]:
    """A case per size of photo and size of square."""
    large = [enlarged(photo) for photo in photos]
    sets = {"photos as they are": photos, f"the same, {LONGER_SIDE:,} pixels wide or high": large}
    cases = []
    for what, encoded in sets.items():
        for side in SIDES:
            _, seconds = alternate(
                {name: _all(make, encoded, side) for name, make in CONTENDERS.items()},
                rounds=rounds,
            )
            case = compare(seconds, amount=len(encoded), reference=REFERENCE)
            case |= {
                "name": f"{what} ({typical_size(encoded)}), to {side} x {side}",
                "unit": "photos per second of one core",
                "clock": "CPU time of all threads",
                "extra": {"difference": "mean of |value - Pillow's|, values from 0 to 255"},
            }
            for name, make in CONTENDERS.items():
                case["contenders"][name]["extra"] = {"difference": difference(make, encoded, side)}
            cases.append(case)
    return cases


def by_mmjax(data: bytes, side: int) -> np.ndarray:
    return squash(decode_image(data, shortest=side), side)


def by_pillow(data: bytes, side: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def by_pillow_draft(data: bytes, side: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (side, side))
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def by_opencv(data: bytes, side: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def by_simplejpeg(data: bytes, side: int) -> np.ndarray:
    image = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side, min_factor=1)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


CONTENDERS: dict[str, Contender] = {
    "mmjax": by_mmjax,
    "Pillow": by_pillow,
    "Pillow, draft mode": by_pillow_draft,
    "OpenCV": by_opencv,
    "simplejpeg, OpenCV's INTER_AREA": by_simplejpeg,
}


def read_photos(folder: str, count: int) -> list[bytes]:
    """Encoded JPEGs, `count` of them at equal distances in the order of their names.

    Raises:
      UserError: the folder holds none.
    """
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise UserError(f"{folder} holds no .jpg file: name a folder with photos, --photos=DIR.")
    chosen = np.unique(np.linspace(0, len(paths) - 1, count).astype(int))
    return [paths[i].read_bytes() for i in chosen]


def enlarged(data: bytes) -> bytes:
    """The photo with LONGER_SIDE pixels on its longer side, as a JPEG of quality 90."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = LONGER_SIDE / max(image.size)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def typical_size(photos: Sequence[bytes]) -> str:
    """The median of the sides, the longer one first."""
    sides = [sorted(Image.open(io.BytesIO(photo)).size, reverse=True) for photo in photos]
    longer, shorter = np.median(sides, axis=0)
    return f"{longer:.0f} x {shorter:.0f}"


def difference(make: Contender, photos: Sequence[bytes], side: int) -> float:
    """Mean distance of the values from Pillow's: what a faster way does to the pixels."""
    apart = [
        np.abs(make(photo, side).astype(np.int16) - by_pillow(photo, side)).mean()
        for photo in photos
    ]
    return float(np.mean(apart))


def _all(make: Contender, photos: Sequence[bytes], side: int) -> Callable[[], None]:
    def work() -> None:
        for photo in photos:
            make(photo, side)

    return work


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.decoding: {error}")
