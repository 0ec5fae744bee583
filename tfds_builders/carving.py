"""Which records of train are put aside as dev: by a hash, so that everybody gets the same."""

from __future__ import annotations

import hashlib

DEV_PERCENT = 10


def drawn(unit: str) -> int:
    """64 bits, drawn by the text alone: neither order nor company of a record play a part."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big")


def percentile(unit: str) -> int:
    """`drawn` as 0 to 99."""
    return drawn(unit) * 100 >> 64


def split_of(unit: str) -> str:
    """ "dev" for a tenth of all units, else "train". Records that belong together are one unit."""
    return "dev" if percentile(unit) < DEV_PERCENT else "train"
