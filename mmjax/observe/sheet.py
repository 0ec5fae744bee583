"""A contact sheet for TensorBoard: what was said, the right photo, the five best candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

_TOP = 5
_TILE, _GAP, _CAPTION, _TEXT_WIDTH = 144, 14, 22, 380
_ROW = _GAP + _CAPTION + _TILE + _GAP
_WIDTH = _GAP + _TEXT_WIDTH + 2 * _GAP + (1 + _TOP) * (_TILE + _GAP)
_FONT_SIZE, _LINE = 14, 19
_GROUND, _INK, _SOFT, _FILL = "#ffffff", "#12151c", "#69717f", "#eef0f3"
_ASKED, _RIGHT, _RULE = "#4338ca", "#15803d", "#e3e6eb"
# More is never drawn, and measuring text takes time in its length.
_LONGEST_TURN, _LONGEST_LABELS = 400, 200


def contact_sheet(
    answers: Sequence[Mapping[str, Any]],
    *,
    pixels: Callable[[str], np.ndarray | None],
    rows: int = 6,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the first `rows` answers, one per row.

    A row holds the last lines of the dialogue (the turns of the query in colour), the right photo
    with its rank, and the best five with their scores; the right one is framed wherever it is.
    Characters that Pillow's own font lacks become boxes.

    Args:
      answers: JSON values of `mmjax.tasks.retrieval`; see `mmjax.observe.page.write_page`.
      pixels: a photo's RGB uint8 [h, w, 3] of any size by its id, or None: its labels are shown
        in their place.

    Returns:
      The sheet; its width is always the same, its height that of the rows there are.
    """
    answers = answers[:rows]
    sheet = Image.new("RGB", (_WIDTH, _ROW * max(1, len(answers))), _GROUND)
    draw = ImageDraw.Draw(sheet)
    if not answers:
        draw.text((_GAP, _ROW // 2), "no examples", _SOFT, _font(), anchor="lm")
    for i, answer in enumerate(answers):
        top = i * _ROW
        if i:
            draw.line((_GAP, top, _WIDTH - _GAP, top), _RULE)
        _dialogue(draw, answer, top)
        _photos(sheet, draw, answer, top, pixels)
    return np.array(sheet)


def _dialogue(draw: ImageDraw.ImageDraw, answer: Mapping[str, Any], top: int) -> None:
    """The last lines of the dialogue, as many as the row's height holds."""
    room = (_ROW - 2 * _GAP) // _LINE
    asked = set(answer["asked"])
    lines: list[tuple[str, str]] = []
    for i in reversed(range(len(answer["turns"]))):
        turn = answer["turns"][i]
        text = f"{turn['speaker']}: {turn['text'][-_LONGEST_TURN:]}"
        colour = _ASKED if i in asked else _SOFT
        lines[:0] = [(line, colour) for line in _wrapped(text, _TEXT_WIDTH)]
        if len(lines) >= room:
            break
    for n, (line, colour) in enumerate(lines[-room:]):
        draw.text((_GAP, top + _GAP + n * _LINE), line, colour, _font())


def _photos(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    answer: Mapping[str, Any],
    top: int,
    pixels: Callable[[str], np.ndarray | None],
) -> None:
    right = {"photo": answer["photo"], "labels": answer["labels"], "score": answer["score"]}
    left = _GAP + _TEXT_WIDTH + 2 * _GAP
    for i, photo in enumerate([right, *answer["top"][:_TOP]]):
        is_right = photo["photo"] == right["photo"]
        name = str(i) if i else f"rank {answer['above'] + 1:,}"
        caption = top + _GAP
        draw.text((left, caption), name, _RIGHT if is_right else _INK, _font())
        score = f"{photo['score']:#.4g}"
        draw.text((left + _TILE, caption), score, _SOFT, _font(), anchor="ra")
        corner = (left, caption + _CAPTION)
        sheet.paste(_tile(photo, pixels(photo["photo"])), corner)
        if is_right:
            box = (corner[0] - 5, corner[1] - 5, corner[0] + _TILE + 4, corner[1] + _TILE + 4)
            draw.rectangle(box, outline=_RIGHT, width=3)
        left += _TILE + _GAP


def _tile(photo: Mapping[str, Any], image: np.ndarray | None) -> Image.Image:
    """The middle of the photo, or its labels."""
    size = (_TILE, _TILE)
    if image is not None:
        return ImageOps.fit(Image.fromarray(image), size, Image.Resampling.BILINEAR)
    tile = Image.new("RGB", size, _FILL)
    labels = ", ".join(photo["labels"])[:_LONGEST_LABELS]
    lines = _wrapped(labels or "no labels", _TILE - 16)[: (_TILE - 12) // _LINE]
    ImageDraw.Draw(tile).multiline_text(
        (_TILE // 2, _TILE // 2), "\n".join(lines), _INK, _font(), anchor="mm", align="center"
    )
    return tile


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, or in a word that is too long for one."""
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}".lstrip()
        if _length(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while _length(word) > width:
            end = len(word) - 1
            while end > 1 and _length(word[:end]) > width:
                end -= 1
            lines.append(word[:end])
            word = word[end:]
        line = word
    return [*lines, line] if line else lines


def _length(text: str) -> float:
    return _font().getlength(text)


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(_FONT_SIZE)
