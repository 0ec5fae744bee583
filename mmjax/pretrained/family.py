"""What must be known of a family of models to exchange its weights: names, axes, sizes.

A family is data, not code: reading its folders and writing them are the same table read from
left to right or from right to left.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mmjax.pretrained.folder import Tensors

Config = TypeVar("Config")

# Axes that only the folder's tensors have, see `Entry`.
PARTS, ONE = "parts", "one"

HEADS_IN = "(heads head_dim) embed -> embed heads head_dim"
HEADS_BIAS = "(heads head_dim) -> heads head_dim"
HEADS_OUT = "embed (heads head_dim) -> heads head_dim embed"


@dataclass(frozen=True)
class Entry:
    """One parameter here and its tensor there.

    `path` is the place in our tree ("layers/attention/query/kernel"); `name` the tensor's name,
    with "{layer}" where the folder keeps one tensor per layer and we keep them stacked along a
    first axis. `axes` says how the axes correspond, there -> here: "(heads head_dim) embed ->
    embed heads head_dim" is a matrix whose rows are all heads' outputs one after another. An
    axis named "vocab" may be longer here than there. An axis "parts", which only they have, lays
    `parts` parameters of ours one after another, of which this is number `part`; "one" is an axis
    of size 1 there. `numbered_on`: what follows the last layer in number there is another
    parameter's.
    """

    path: str
    name: str
    axes: str
    first: int = 0
    part: int = 0
    parts: int = 1
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
class Family(Generic[Config]):
    """Attributes:
    kind: class of the models' config.
    config: what a config.json describes.
    describe: what a config.json says of a model.
    entries: where each parameter of a model is found.
    canonical: maps a tensor's name to the form used in `entries`, or None if it is to be ignored
      (buffers that hold no weights).
    seen: keys that are added to config.json's, from the tensors: what it leaves open.
    """

    kind: type[Config]
    config: Callable[[dict[str, Any]], Config]
    describe: Callable[[Config], dict[str, Any]]
    entries: Callable[[Config], tuple[Entry, ...]]
    canonical: Callable[[str], str | None]
    seen: Callable[[Tensors], dict[str, Any]] = lambda _: {}


def norm(path: str, name: str) -> list[Entry]:
    """A layer norm."""
    return [
        Entry(f"{path}/scale", f"{name}.weight", "embed -> embed"),
        Entry(f"{path}/bias", f"{name}.bias", "embed -> embed"),
    ]


def projection(path: str, name: str, kernel: str, bias: str | None) -> list[Entry]:
    """A linear layer; `bias` None: it has none."""
    entries = [Entry(f"{path}/kernel", f"{name}.weight", kernel)]
    return entries if bias is None else [*entries, Entry(f"{path}/bias", f"{name}.bias", bias)]


def attention(
    path: str, query: str, key: str, value: str, output: str, *, bias: bool = True
) -> list[Entry]:
    """Four linear layers."""
    inputs = {"query": query, "key": key, "value": value}
    return [
        entry
        for part, name in inputs.items()
        for entry in projection(f"{path}/{part}", name, HEADS_IN, HEADS_BIAS if bias else None)
    ] + projection(f"{path}/output", output, HEADS_OUT, "embed -> embed" if bias else None)


def widening(path: str, name: str, *, bias: bool = True) -> list[Entry]:
    """A feed-forward layer's projection from the model's width."""
    return projection(path, name, "mlp embed -> embed mlp", "mlp -> mlp" if bias else None)


def narrowing(path: str, name: str, *, bias: bool = True) -> list[Entry]:
    """A feed-forward layer's projection back to the model's width."""
    return projection(path, name, "embed mlp -> mlp embed", "embed -> embed" if bias else None)
