"""How deep a parameter lies: stacks of equal layers, and the embeddings below them."""

from __future__ import annotations

from mmjax.errors import UserError
from mmjax.optim.parameters import STACK, Parameter

Tower = tuple[str, ...]

_EMBEDDINGS, _HEAD = {"embeddings", "embedding"}, "head"


def tower_of(parameter: Parameter) -> Tower | None:
    """Where the module stands whose child "layers" this stacked parameter belongs to."""
    parts = tuple(parameter.path.split("/"))
    return parts[: parts.index(STACK)] if parameter.stacked and STACK in parts else None


def stacks_of(parameters: list[Parameter], option: str) -> dict[Tower, int]:
    """Number of layers of each tower.

    Args:
      option: what needs them, for messages.

    Raises:
      UserError: there is no stack.
    """
    stacks = {tower: p.shape[0] for p in parameters if (tower := tower_of(p)) is not None}
    if not stacks:
        raise UserError(
            f"config.{option} acts along stacked layers, and this model has none: leave it out."
        )
    return stacks


def layers_above(parameter: Parameter, stacks: dict[Tower, int]) -> int:
    """Of embeddings: 1 + layers of the deepest stack in the nearest module that holds one; else 0.

    Embeddings are what stands in a module "embeddings", and tables other than that of a head.
    """
    parts = tuple(parameter.path.split("/"))
    if _EMBEDDINGS.isdisjoint(parts) or _HEAD in parts:
        return 0
    for end in range(len(parts) - 1, -1, -1):
        depths = [n for tower, n in stacks.items() if tower[:end] == parts[:end]]
        if depths:
            return 1 + max(depths)
    return 0
