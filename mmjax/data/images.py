"""From an encoded photo to pixels: decoded, turned upright, resized, cut.

JPEGs are decoded by libjpeg-turbo through `simplejpeg`, at the smallest of its scales that still
holds the wanted size; `benchmarks/decoding.py` measures the choice. Everything else, and every
header, is Pillow's. Normalising and mirroring are left to the device (`mmjax.models.pixels`).
"""

from __future__ import annotations

import dataclasses
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from mmjax.config import limited, operational
from mmjax.data.schema import PhotoFile

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 100_000_000
MAX_SIDE = 20_000

Pixels = UInt8[np.ndarray, "H W 3"]

# Pillow's own limit would warn below ours; `_open` checks the header before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ORIENTATION = 0x0112  # EXIF's tag
_JPEG = ("JPEG", "MPO")  # MPO: several JPEGs in one file, as some phones write them


class BadImageError(ValueError):
    """The bytes are no image that can be used; the message says why, in one clause."""


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How a photo becomes the square that a network sees.

    Attributes:
      size: side of the square, in pixels.
      fit: "squash" resizes both sides to `size` whatever their ratio, as PhotoChat's dual encoder
        does; "crop" resizes the shorter side to 8/7 of `size` and cuts the middle (torchvision's
        evaluation transform, VSE++).
      augment: in training, "none", or "crop": a random part of the photo, of `min_area` to all of
        its area and 3:4 to 4:3 in shape (Inception's, VSE++).
      mirror: in training, half of the photos are mirrored.
      min_area: of the random part, as a share.
      cached_mib: mebibytes of decoded photos kept in memory. Worker processes keep as much each,
        as long as they live: one training, or one evaluation.
    """

    size: int = limited(224, low=8, high=2048)
    fit: Literal["squash", "crop"] = "squash"
    augment: Literal["none", "crop"] = "none"
    mirror: bool = False
    min_area: float = limited(0.08, above=0, high=1)
    cached_mib: int = operational(1024, low=0)


class Part(NamedTuple):
    """A rectangle of a photo: where its edges are, as fractions of the width and the height."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE = Part(0.0, 0.0, 1.0, 1.0)


class View(NamedTuple):
    """A square of pixels, uint8 [S, S, 3], and the part of the photo that it shows."""

    pixels: np.ndarray
    part: Part


class PhotoReader:
    """Photos as squares of pixels; those that are not drawn at random are kept in memory.

    Threads may share one. A copy that is pickled to another process begins with an empty memory.
    """

    def __init__(self, options: ImageOptions):
        self.options = options
        self._forget()

    def __call__(self, file: PhotoFile, rng: np.random.Generator | None = None) -> View:
        """The photo's square.

        Args:
          rng: for the random part; None: none is taken (evaluation).

        Raises:
          BadImageError: the photo cannot be decoded.
        """
        options = self.options
        if rng is not None and options.augment == "crop":
            # Twice the size: a part of the photo must still be larger than the square.
            image = decode_image(file.read(), shortest=2 * options.size)
            return random_crop(image, options.size, rng, min_area=options.min_area)
        with self._lock:
            if file.digest in self._kept:
                self._kept.move_to_end(file.digest)
                return self._kept[file.digest]
        fit = {"squash": _squashed, "crop": centre_crop}[options.fit]
        view = fit(decode_image(file.read(), shortest=_shortest(options)), options.size)
        with self._lock:
            self._kept[file.digest] = view
            while len(self._kept) * view.pixels.nbytes > options.cached_mib * 2**20:
                self._kept.popitem(last=False)
        return view

    def _forget(self) -> None:
        self._kept: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {"options": self.options}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()


def decode_image(data: bytes, *, shortest: int | None = None) -> Pixels:
    """An encoded image as RGB, upright, on white where it is transparent, its first frame.

    Args:
      shortest: no side is decoded smaller than this where the photo is larger; None: full size.

    Raises:
      BadImageError: empty, damaged, cut short, too large, or not an image.
    """
    image = _open(data)
    try:
        pixels = None
        if image.format in _JPEG and image.mode in ("RGB", "L"):
            pixels = _decode_jpeg(data, shortest)
        if pixels is None:
            pixels = _to_rgb(image)
        return np.ascontiguousarray(_upright(pixels, _orientation(image)))
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise BadImageError(f"it is damaged or cut short ({_first_line(error)})") from error


def check_image(data: bytes) -> tuple[int, int]:
    """(width, height) of an image that can be decoded; raises BadImageError for any other."""
    height, width, _ = decode_image(data).shape
    return width, height


def squash(image: Pixels, size: int) -> Pixels:
    """Both sides resized to `size`, antialiased."""
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _squashed(image: Pixels, size: int) -> View:
    return View(squash(image, size), WHOLE)


def centre_crop(image: Pixels, size: int) -> View:
    """The shorter side resized to 8/7 of `size` (256 for 224), and the middle of that."""
    sides = np.array(image.shape[:2])
    image = _without_far_ends(image)
    height, width = image.shape[:2]
    scaled = round(size * 8 / 7)
    longer = int(scaled * max(height, width) / min(height, width))
    h, w = (scaled, longer) if height <= width else (longer, scaled)
    resized = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    top, left = round((h - size) / 2), round((w - size) / 2)
    pixels = np.ascontiguousarray(resized[top : top + size, left : left + size])
    step = np.array([height, width]) / [h, w]  # of a pixel, in those of the photo
    start = (sides - [height, width]) // 2 + step * [top, left]
    return View(pixels, _part(start, start + step * size, sides))


def _without_far_ends(image: Pixels, longest: int = 8) -> Pixels:
    """The middle of a photo that is more than `longest` times as long as it is wide.

    Resized whole, only to be cut, a line of pixels would fill the memory.
    """
    sides = np.minimum(image.shape[:2], longest * min(image.shape[:2]))
    top, left = (np.array(image.shape[:2]) - sides) // 2
    return image[top : top + sides[0], left : left + sides[1]]


def random_crop(
    image: Pixels, size: int, rng: np.random.Generator, *, min_area: float = 0.08
) -> View:
    """A random part of the image, resized to `size` by `size` (Szegedy et al., 2015).

    Args:
      min_area: smallest part, as a share of the area; its shape is between 3:4 and 4:3.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            break
    else:  # a very long photo: its middle
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    cut = Image.fromarray(image[top : top + h, left : left + w])
    pixels = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))
    return View(pixels, _part([top, left], [top + h, left + w], image.shape[:2]))


def _part(start: Sequence[float], end: Sequence[float], sides: Sequence[int]) -> Part:
    """From (y, x) in pixels; `sides`: height, width."""
    (top, left), (bottom, right) = np.divide(start, sides), np.divide(end, sides)
    return Part(float(left), float(top), float(right), float(bottom))


def _open(data: bytes) -> Image.Image:
    """The image, its header read and within the limits; no pixel is decoded."""
    if not data:
        raise BadImageError("it is empty")
    if len(data) > MAX_BYTES:
        raise BadImageError(f"it has {len(data):,} bytes, the limit is {MAX_BYTES:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = image.size
    except UnidentifiedImageError as error:
        raise BadImageError("it is no image of a known format") from error
    except Exception as error:
        raise BadImageError(f"its header is damaged ({_first_line(error)})") from error
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadImageError(
            f"it is {width:,} x {height:,} pixels, the limits are {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS:,} in all"
        )
    if min(width, height) < 1:
        raise BadImageError("it has no pixels")
    return image


def _decode_jpeg(data: bytes, shortest: int | None) -> Pixels | None:
    """None where libjpeg-turbo has a complaint: Pillow judges whether it matters."""
    side = 0 if shortest is None else shortest
    try:
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=side, min_width=side, min_factor=1, strict=True
        )
    except ValueError:
        return None


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a channel, whatever the mode's name says
        wide = np.asarray(image).astype(np.int64)
        return np.repeat(np.clip(wide // 257, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise BadImageError("its pixels are floating-point numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # what cannot be read turns nothing
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """As the camera was held: the eight values of EXIF's orientation tag."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _shortest(options: ImageOptions) -> int:
    return options.size if options.fit == "squash" else round(options.size * 8 / 7)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
