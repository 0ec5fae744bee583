"""What a parameter is, read off its path and the names of its axes; patterns that choose some."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
from flax.core import meta

from mmjax.errors import UserError

STACK = "layers"  # the logical name of the axis along which equal layers are stacked

# Axes that are one side of a matrix together: a kernel keeps its natural rank.
_SIDES = {"heads": "heads", "head_dim": "heads", "spatial": "channels", "channels_in": "channels"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Attributes:
    path: "query_tower/layers/attention/query/kernel".
    shape: of the array.
    axes: logical name of each axis; None where the model gave none.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]

    @property
    def stacked(self) -> bool:
        """Whether the first axis counts layers."""
        return self.axes[:1] == (STACK,)

    @property
    def own(self) -> tuple[int, ...]:
        """The axes of one layer's parameter."""
        return tuple(range(int(self.stacked), len(self.shape)))

    @property
    def matrix(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Axes of the inputs and of the outputs of one layer's matrix; None where it is none.

        Kernels are [*inputs, *outputs]. Of more than two axes the names tell where the inputs end:
        heads and head_dim are one side, and so are a convolution's window and input channels.
        """
        own = self.own
        sides = [_SIDES.get(self.axes[i], object()) for i in own]
        changes = [k for k in range(1, len(own)) if sides[k] != sides[k - 1]]
        return (own[: changes[0]], own[changes[0] :]) if len(changes) == 1 else None

    def sizes(self) -> tuple[int, int] | None:
        """Numbers of inputs and outputs of one layer's matrix; None where it is none."""
        if self.matrix is None:
            return None
        rows, columns = (math.prod(self.shape[i] for i in side) for side in self.matrix)
        return rows, columns


def describe(params: Any) -> Any:
    """The tree with a `Parameter` for each array, box or ShapeDtypeStruct."""

    def one(path: tuple, leaf: Any) -> Parameter:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = leaf.unbox(apply_constraint=False) if is_box(leaf) else leaf
        return Parameter(name, value.shape, axis_names(leaf))

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_box)


def axis_names(leaf: Any) -> tuple[str | None, ...]:
    """Logical names of an array's axes, from its box."""
    return tuple(leaf.names) if is_box(leaf) else (None,) * leaf.ndim


def boxed_like(leaf: Any, value: jax.Array, names: tuple[str | None, ...]) -> Any:
    """`value` in a box of the kind that `leaf` has, with its own names; as it is without one."""
    return leaf.replace(value=value, names=names) if is_box(leaf) else value


def is_box(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def matching(pattern: str, option: str) -> Callable[[str], bool]:
    """Whether a path matches a regular expression somewhere.

    Args:
      option: where it stands, for messages ("optim.no_decay").

    Raises:
      UserError: it is no regular expression.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"config.{option}={pattern!r} is no regular expression: {error}.") from None
    return lambda path: expression.search(path) is not None


def matching_some(pattern: str, option: str, parameters: Any) -> Callable[[str], bool]:
    """As `matching`; a pattern that matches none of the parameters is a UserError too."""
    matches = matching(pattern, option)
    paths = [parameter.path for parameter in jax.tree.leaves(parameters)]
    if not any(map(matches, paths)):
        shown = ", ".join(paths[:: max(1, len(paths) // 4)][:4])
        raise UserError(
            f"config.{option}: {pattern!r} matches no parameter; their names are like {shown}."
        )
    return matches
