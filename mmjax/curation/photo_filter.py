"""Which photos are worth talking about (PhotoChat, Zang et al., ACL 2021, section 3.1).

A photo is kept where it shows anything of the whitelist. People count only as a main object: a box
that is marginal or extremely small does not (the paper's footnotes 2 and 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmjax.curation.whitelist import PEOPLE, Entries, Whitelist
from mmjax.data.schema import Box, Photo

# Coordinates are written with up to 6 decimals: without this, whether 0.85 to 0.95 has its centre
# at 0.9 would hang on how they are rounded to binary.
_ROUNDING = 1e-9

NO_BOX, NOT_LISTED = "no box", "no listed label"
AT_BORDER, TOO_SMALL = "people at the border", "people too small"
BORDER_OR_SMALL = "people at the border or too small"
REASONS = (NO_BOX, NOT_LISTED, AT_BORDER, TOO_SMALL, BORDER_OR_SMALL)


@dataclass(frozen=True)
class MainObject:
    """When a box is no main object. Lengths are fractions of the photo's sides.

    Attributes:
      margin: marginal is a box whose centre is this near to a border, or nearer.
      least_side: extremely small is one of less width and ("and") or ("or") less height than this.
      small: the paper does not say which; "and" is the reading of "extremely".
    """

    margin: float = 0.1
    least_side: float = 0.3
    small: Literal["and", "or"] = "and"

    def is_marginal(self, box: Box) -> bool:
        x, y = box.x + box.width / 2, box.y + box.height / 2
        return min(x, 1 - x, y, 1 - y) <= self.margin + _ROUNDING

    def is_small(self, box: Box) -> bool:
        both = all if self.small == "and" else any
        return both(side < self.least_side - _ROUNDING for side in (box.width, box.height))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the filter says of a photo.

    Attributes:
      entries: the entries of the whitelist that count, in the order of the photo's boxes; the
        photo is kept where there is one.
      shown: all entries of its boxes, those of people that are no main object too.
      reason: why the photo is dropped, one of REASONS; "" where it is kept.
      unknown: labels that the vocabulary does not have.
    """

    photo: str
    entries: tuple[str, ...]
    shown: tuple[str, ...]
    reason: str
    unknown: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        return not self.reason


def judge(photo: Photo, entries: Entries, whitelist: Whitelist, main: MainObject) -> Verdict:
    """Whether a photo is kept, and for what."""
    counted, shown, failed = [], [], []
    for box in photo.boxes:
        for entry in entries.get(box.label, ()):
            shown.append(entry)
            if whitelist.group_of[entry] == PEOPLE:
                marginal, small = main.is_marginal(box), main.is_small(box)
                if marginal or small:
                    failed.append((marginal, small))
                    continue
            counted.append(entry)
    return Verdict(
        photo.id,
        tuple(dict.fromkeys(counted)),
        tuple(dict.fromkeys(shown)),
        "" if counted else _reason(photo, failed),
        tuple(dict.fromkeys(box.label for box in photo.boxes if box.label not in entries)),
    )


def _reason(photo: Photo, failed: list[tuple[bool, bool]]) -> str:
    if not photo.boxes:
        return NO_BOX
    if not failed:
        return NOT_LISTED
    if all(marginal for marginal, _ in failed):
        return AT_BORDER
    return TOO_SMALL if all(small for _, small in failed) else BORDER_OR_SMALL
