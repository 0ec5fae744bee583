"""Counts of what the photo filter saw, kept and dropped, as text and as JSON."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import Any

from mmjax.curation.photo_filter import REASONS, Verdict
from mmjax.curation.whitelist import Whitelist

_SHOWN_UNKNOWN = 10


@dataclass
class FilterStatistics:
    """Grows by `add`. Counted are photos: one with three dogs counts once.

    Attributes:
      before, after: entry of the whitelist -> photos that have a box of it; photos that are kept
        and have one that counts.
      dropped: reason -> photos.
      unknown: label that the vocabulary does not have -> photos.
    """

    whitelist: Whitelist
    photos: int = 0
    kept: int = 0
    before: collections.Counter = field(default_factory=collections.Counter)
    after: collections.Counter = field(default_factory=collections.Counter)
    group_before: collections.Counter = field(default_factory=collections.Counter)
    group_after: collections.Counter = field(default_factory=collections.Counter)
    dropped: collections.Counter = field(default_factory=collections.Counter)
    unknown: collections.Counter = field(default_factory=collections.Counter)

    def add(self, verdict: Verdict) -> None:
        """Counts one photo."""
        self.photos += 1
        self.kept += verdict.kept
        self.before.update(verdict.shown)
        self.after.update(verdict.entries)
        self.group_before.update(self.whitelist.groups_in(verdict.shown))
        self.group_after.update(self.whitelist.groups_in(verdict.entries))
        self.unknown.update(verdict.unknown)
        if not verdict.kept:
            self.dropped[verdict.reason] += 1

    def as_json(self) -> dict[str, Any]:
        """`{photos, kept, dropped: {reason: n}, groups: {group: {before, after}}, labels, ...}`."""
        return {
            "photos": self.photos,
            "kept": self.kept,
            "dropped": {reason: self.dropped[reason] for reason in REASONS},
            "groups": {
                group: {"before": self.group_before[group], "after": self.group_after[group]}
                for group in self.whitelist.groups
            },
            "labels": {
                entry: {"before": self.before[entry], "after": self.after[entry]}
                for entry in self.whitelist.group_of
                if self.before[entry]
            },
            "unknown_labels": dict(sorted(self.unknown.items(), key=lambda x: (-x[1], x[0]))),
        }

    def as_text(self) -> str:
        """The same as aligned lines; entries that no photo has are left out."""
        rows = [("photos", self.photos, self.kept), None]
        for group, listed in self.whitelist.groups.items():
            rows.append((group, self.group_before[group], self.group_after[group]))
            found = sorted((e for e in listed if self.before[e]), key=lambda e: -self.before[e])
            rows += [(f"  {entry}", self.before[entry], self.after[entry]) for entry in found]
        dropped = [(reason, self.dropped[reason]) for reason in REASONS if self.dropped[reason]]
        width = max(len(row[0]) for row in (*filter(None, rows), *dropped)) + 2
        lines = [f"{'':{width}}{'before':>10}{'after':>10}"]
        lines += [f"{r[0]:{width}}{r[1]:>10,}{r[2]:>10,}" if r else "" for r in rows]
        lines += ["", f"{'dropped':{width}}{self.photos - self.kept:>10,}"]
        lines += [f"  {reason:{width - 2}}{n:>10,}" for reason, n in dropped]
        if self.unknown:
            most = [f"{label} ({n:,})" for label, n in self.unknown.most_common(_SHOWN_UNKNOWN)]
            lines += ["", f"labels that are not known, and pass for not listed: {', '.join(most)}"]
            if len(self.unknown) > len(most):
                lines[-1] += f" and {len(self.unknown) - len(most):,} more"
        return "\n".join(lines)
