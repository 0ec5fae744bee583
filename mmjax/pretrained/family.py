"""What must be known of a family of models to exchange its weights: names, axes, sizes.

A family is data, not code: reading its folders and writing them are the same table read from
left to right or from right to left.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.transformer import TransformerConfig

Path = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One parameter here and its tensor there.

    `path` is the place in our tree ("layers/attention/query/kernel"); `name` the tensor's name,
    with "{layer}" where the folder keeps one tensor per layer and we keep them stacked along a
    first axis. `axes` says how the axes correspond, there -> here: "(heads head_dim) embed ->
    embed heads head_dim" is a matrix whose rows are all heads' outputs one after another. An
    axis named "vocab" may be longer here than there; "()" is one of length 1 that is not here.
    `numbered_on`: what follows the last layer in number there is another parameter's.
    """

    path: str
    name: str
    axes: str
    first: int = 0
    numbered_on: bool = False

    def names(self, count: int) -> list[str]:
        """The folder's names of a parameter that stacks `count` layers."""
        return [self.name.format(layer=self.first + i) for i in range(count)]

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.name

    @property
    def theirs(self) -> list[list[str]]:
        """Per axis of the folder's tensor, the names of the axes that it merges."""
        groups = re.findall(r"\(([^)]*)\)|(\S+)", self.axes.split("->")[0])
        return [(merged or single).split() for merged, single in groups]

    @property
    def ours(self) -> list[str]:
        """The axes of our parameter, without the stacked one."""
        return self.axes.split("->")[1].split()


@dataclass(frozen=True)
class Family:
    """`canonical` maps a tensor's name to the form used in `entries`, or None if it is to be
    ignored (buffers that hold no weights)."""

    config: Callable[[dict[str, Any]], TransformerConfig]
    entries: tuple[Entry, ...]
    canonical: Callable[[str], str | None]


@dataclass(frozen=True)
class ImageFamily:
    """Of networks of images, whose entries depend on their sizes.

    `kind` is the class of its configs; `config` reads a config.json, raising UserError for what is
    not supported (KeyError, TypeError, ValueError for what is missing or senseless), and `describe`
    writes one. `canonical` is as in `Family`; its result begins with one of `trunk` for every
    weight of the network without a head.
    """

    kind: type[ImageTowerConfig]
    config: Callable[[dict[str, Any]], ImageTowerConfig]
    describe: Callable[[Any], dict[str, Any]]
    entries: Callable[[Any], tuple[Entry, ...]]
    canonical: Callable[[str], str | None]
    trunk: tuple[str, ...]
