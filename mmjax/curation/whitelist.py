"""The labels that make a photo worth talking about (PhotoChat, Zang et al., ACL 2021, section 3).

The paper's list has four groups of Open Images' class names, 89 entries of which "Blender" stands
twice. Two are no class of Open Images' boxes: "Refridgerator", a misspelling that its published
counts depend on and that is kept, and "Face", as the release calls "Human face".
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from etils import epath

from mmjax.errors import UserError

PEOPLE, ANIMAL = "people", "Animal"
# What the paper calls otherwise than Open Images: class -> entry.
RENAMED = {"Human face": "Face"}

# A label of some vocabulary -> the entries that it counts as; () where it is known and not listed.
Entries = Mapping[str, tuple[str, ...]]
Below = Literal["animal", "all", "none"]


@dataclass(frozen=True)
class Whitelist:
    """Attributes:
    groups: group -> its entries, each once, in the order of the list.
    """

    groups: Mapping[str, tuple[str, ...]]

    @functools.cached_property
    def group_of(self) -> Mapping[str, str]:
        """Entry -> its group."""
        return {entry: group for group, listed in self.groups.items() for entry in listed}

    def groups_in(self, labels: Collection[str]) -> tuple[str, ...]:
        """The groups of which any of the labels is an entry, in the order of the list."""
        labels = set(labels)
        return tuple(g for g, listed in self.groups.items() if not labels.isdisjoint(listed))


def load_whitelist(path: epath.PathLike | None = None) -> Whitelist:
    """The list in a JSON file `{group: [entry, ...]}`; None: PhotoChat's.

    Raises UserError for a file of another form, and for an entry in two groups.
    """
    file = epath.Path(path or epath.Path(__file__).parent / "photochat_labels.json")
    lists = read_json(file)
    if not (
        isinstance(lists, dict)
        and lists
        and all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in lists.values())
    ):
        raise UserError(f"{file} should be {{group: [label, ...]}}: correct it.")
    home: dict[str, str] = {}
    for group, listed in lists.items():
        for entry in listed:
            if home.setdefault(entry, group) != group:
                raise UserError(
                    f"{file}: {entry!r} is in {home[entry]!r} and in {group!r}: leave it in one."
                )
    return Whitelist({group: tuple(dict.fromkeys(listed)) for group, listed in lists.items()})


def open_images_entries(
    whitelist: Whitelist,
    above: Mapping[str, Collection[str]],
    below: Below = "animal",
) -> Entries:
    """What each class of Open Images counts as.

    Boxes carry the most specific class, so that a dog is a "Dog" and never an "Animal". The paper
    does not say whether a class counts as an entry above it in Open Images' hierarchy; its release
    does: nearly every photo with a kind of animal has "Animal" too, and hardly one with a kind of
    another entry (a pastry, a cocktail, a hat) has that entry.

    Args:
      above: class -> all classes above it (`mmjax.curation.open_images.read_hierarchy`).
      below: "animal": what is below "Animal" counts as "Animal"; "all": what is below any entry
        counts as that entry; "none": a class counts as itself alone. A class that is listed is
        always itself and nothing else.
    """
    wider = {"animal": {ANIMAL}, "all": set(whitelist.group_of), "none": set()}[below]
    entries = {}
    for name, higher in above.items():
        own = RENAMED.get(name, name)
        found = (own,) if own in whitelist.group_of else tuple(sorted(wider.intersection(higher)))
        entries[name] = tuple(entry for entry in found if entry in whitelist.group_of)
    return entries


def coco_entries(whitelist: Whitelist) -> Entries:
    """What each of COCO's 80 classes counts as, beside the entries themselves.

    `coco_labels.json` names the class of Open Images. A COCO person is annotated whole, without
    sex or age: "Human body". Classes that are wider than any entry (clock, tie, cup) have none.
    """
    named = read_json(epath.Path(__file__).parent / "coco_labels.json")
    listed = whitelist.group_of
    entries = {name: (entry,) if entry in listed else () for name, entry in named.items()}
    return entries | {entry: (entry,) for entry in listed}


def read_json(path: epath.Path) -> Any:
    """The value in the file. Raises UserError where it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): check the file.") from error
