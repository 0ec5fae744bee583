"""From encoded photos to squares: every kind of file that users have, and none that does harm."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmjax.data import images
from mmjax.data.images import (
    BadImageError,
    ImageOptions,
    PhotoReader,
    centre_crop,
    check_image,
    decode_image,
    random_crop,
    squash,
)
from mmjax.data.photos import BytesPhoto

HEIGHT, WIDTH = 40, 60


def smooth(height=HEIGHT, width=WIDTH) -> np.ndarray:
    """A picture that JPEG keeps nearly as it is, different at each corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * y, 255 * x, 255 * (1 - x * y)], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PHOTO = Image.fromarray(smooth())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_known_formats_are_read(kind):
    found = decode_image(encoded(PHOTO, kind, quality=95))
    assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(found.astype(int) - smooth()).mean() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_the_camera_was_held(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    found = decode_image(data)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 3


def test_cmyk_palette_grey_and_one_bit_become_rgb():
    for mode, kind in (("CMYK", "JPEG"), ("P", "PNG"), ("L", "JPEG"), ("L", "PNG"), ("1", "PNG")):
        image = PHOTO.convert(mode)
        found = decode_image(encoded(image, kind))
        assert found.shape == (HEIGHT, WIDTH, 3), mode
        assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).mean() < 4, mode


def test_sixteen_bits_keep_their_brightness():
    levels = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    found = decode_image(encoded(Image.fromarray(levels), "PNG"))
    assert np.abs(found[..., 0].astype(int) - levels / 257).max() <= 1
    assert (found[..., 0] == found[..., 2]).all()


def test_what_is_transparent_is_white():
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, : WIDTH // 2] = 255
    rgba = np.dstack([smooth(), alpha])
    found = decode_image(encoded(Image.fromarray(rgba), "PNG"))
    np.testing.assert_array_equal(found[:, : WIDTH // 2], smooth()[:, : WIDTH // 2])
    assert (found[:, WIDTH // 2 :] == 255).all()
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert (decode_image(encoded(palette, "PNG", transparency=0)) == 255).all()


def test_of_an_animation_the_first_frame_is_seen():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert (decode_image(data) == [255, 0, 0]).all(), kind


def truncated(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    return data[: len(data) // 2]


def huge_png(width: int, height: int) -> bytes:
    """A PNG that claims a size, with hardly a byte in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


BROKEN = {
    "empty": (b"", "it is empty"),
    "no image": (b"<html>Not found</html>", "no image of a known format"),
    "a cut JPEG": (truncated("JPEG"), "damaged or cut short"),
    "a cut PNG": (truncated("PNG"), "damaged or cut short"),
    "a JPEG's first bytes": (truncated("JPEG")[:12], "known format|header is damaged"),
    "too wide": (huge_png(30_000, 10), r"30,000 x 10 pixels, the limits are 20,000 a side"),
    "a bomb": (huge_png(20_000, 20_000), r"20,000 x 20,000 pixels"),
    "floating point": (
        encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "floating-point numbers",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_is_refused_with_the_reason(name):
    data, reason = BROKEN[name]
    with pytest.raises(BadImageError, match=reason):
        check_image(data)


def test_files_beyond_the_limit_are_not_even_opened(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(BadImageError, match=r"bytes, the limit is 100"):
        decode_image(encoded(PHOTO, "PNG"))


def test_the_size_is_told_as_the_photo_is_seen():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert check_image(encoded(PHOTO, "JPEG")) == (WIDTH, HEIGHT)
    assert check_image(encoded(PHOTO, "JPEG", exif=exif)) == (HEIGHT, WIDTH)


def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_is_needed():
    data = encoded(Image.fromarray(smooth(400, 600)), "JPEG", quality=95)
    for shortest in (40, 50, 51, 199, 200, 201, 400, 500):
        found = decode_image(data, shortest=shortest)
        height, width, _ = found.shape
        assert min(400, shortest) <= height <= 400 and abs(width / height - 1.5) < 0.02
    assert decode_image(data, shortest=50).shape[0] < 100


def test_squashing_and_the_central_crop_are_those_of_another_library():
    """torchvision's Resize on Pillow images is Pillow's antialiased bilinear filter."""
    image = smooth(120, 200)
    pillow = Image.fromarray(image)
    wanted = np.asarray(pillow.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(squash(image, 32), wanted)
    # Resize(64) then CenterCrop(56) of a photo of 200 x 120: 106 x 64, cut 25 and 4.
    whole = np.asarray(pillow.resize((106, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(centre_crop(image, 56).pixels, whole[4:60, 25:81])
    tall = centre_crop(image.transpose(1, 0, 2), 56).pixels
    np.testing.assert_array_equal(
        tall,
        np.asarray(
            Image.fromarray(image.transpose(1, 0, 2)).resize((64, 106), Image.Resampling.BILINEAR)
        )[25:81, 4:60],
    )


def test_a_line_of_pixels_is_cut_before_it_is_enlarged():
    line = np.zeros((1, 20_000, 3), np.uint8)
    line[:, 9_990:10_010] = 255
    found = centre_crop(line, 448).pixels
    assert found.shape == (448, 448, 3) and found[:, 200:248].min() == 255


def test_an_orientation_that_cannot_be_read_turns_nothing():
    for kind in ("JPEG", "PNG"):
        data = encoded(PHOTO, kind, exif=b"Exif\x00\x00garbage")
        assert decode_image(data).shape == (HEIGHT, WIDTH, 3)


def test_random_parts_have_the_stated_areas_and_shapes(monkeypatch):
    """From a picture whose colours are its coordinates, the part can be read off."""
    image = smooth(300, 400)
    areas, ratios = [], []
    for seed in range(300):
        part = random_crop(image, 64, np.random.default_rng(seed), min_area=0.2).pixels
        assert part.shape == (64, 64, 3)
        # A resized part's first and last pixels lie half a step inside it.
        span = part[..., :2].astype(float).max((0, 1)) - part[..., :2].min((0, 1))
        height, width = span / 255 * 64 / 63 * [299, 399]
        areas.append(height * width / (300 * 400))
        ratios.append(width / height)
    assert 0.17 < min(areas) < 0.3 and 0.8 < max(areas) < 1.05
    assert 0.7 < min(ratios) < 0.85 and 1.2 < max(ratios) < 1.4
    assert 0.5 < np.mean(areas) < 0.65


def test_a_photo_too_long_for_any_part_gives_its_middle():
    image = np.zeros((10, 1000, 3), np.uint8)
    image[:, 495:505] = 255
    part = random_crop(image, 16, np.random.default_rng(0), min_area=0.9).pixels
    assert part.shape == (16, 16, 3) and part.max() > 200


# The reader


class Counting(BytesPhoto):
    reads = 0

    def read(self) -> bytes:
        type(self).reads += 1
        return super().read()


def test_a_photo_that_is_not_drawn_is_decoded_once_and_a_drawn_one_each_time():
    photo = Counting(encoded(PHOTO, "PNG"))
    reader = PhotoReader(ImageOptions(size=16))
    first = reader(photo).pixels
    np.testing.assert_array_equal(reader(photo, np.random.default_rng(0)).pixels, first)
    assert Counting.reads == 1
    Counting.reads = 0
    drawing = PhotoReader(ImageOptions(size=16, augment="crop"))
    parts = [drawing(photo, np.random.default_rng(seed)).pixels for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert (parts[0] != parts[2]).any() and Counting.reads == 3
    np.testing.assert_array_equal(drawing(photo).pixels, first)  # evaluation draws nothing


def test_the_memory_of_decoded_photos_is_bounded():
    reader = PhotoReader(ImageOptions(size=512, cached_mib=2))  # 0.75 MiB each
    photos = [BytesPhoto(encoded(Image.new("RGB", (4, 4), (i, 0, 0)), "PNG")) for i in range(4)]
    for photo in photos:
        reader(photo)
    assert list(reader._kept) == [photo.digest for photo in photos[2:]]
    nothing = PhotoReader(ImageOptions(size=512, cached_mib=0))
    nothing(photos[0])
    assert not nothing._kept


def test_a_reader_goes_to_another_process_without_its_memory():
    reader = PhotoReader(ImageOptions(size=16))
    reader(BytesPhoto(encoded(PHOTO, "PNG")))
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.options == reader.options and not copy._kept
