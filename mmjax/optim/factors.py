"""Learning-rate factors of single parameters: by pattern, and by depth along the stacked layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmjax.errors import UserError
from mmjax.optim.depth import layers_above, stacks_of, tower_of
from mmjax.optim.parameters import Parameter, matching_some


def rate_factors(patterns: Sequence[str], layer_decay: float | None, parameters: Any) -> Any:
    """For each parameter a float, or an array that broadcasts against it.

    Args:
      patterns: each "EXPRESSION=FACTOR"; the first that matches a path counts.
      layer_decay: see `_depth_factors`; None: depth does not count.
      parameters: tree of `Parameter`.

    Raises:
      UserError: a pattern that is none or matches nothing, or a decay without stacked layers.
    """
    by_pattern = [_parsed(pattern, parameters) for pattern in patterns]
    by_depth = _depth_factors(layer_decay, jax.tree.leaves(parameters))

    def one(parameter: Parameter) -> Any:
        chosen = (factor for matches, factor in by_pattern if matches(parameter.path))
        return next(chosen, 1.0) * by_depth[parameter.path]

    return jax.tree.map(one, parameters)


def _parsed(pattern: str, parameters: Any) -> tuple[Any, float]:
    option = "optim.rate_factors"
    expression, _, number = str(pattern).rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not expression or not (math.isfinite(factor) and factor >= 0):
        raise UserError(
            f'config.{option}: {pattern!r} is not of the form "EXPRESSION=FACTOR" with a factor of '
            "at least 0, such as image_tower=0.1."
        )
    return matching_some(expression, option, parameters), factor


def _depth_factors(decay: float | None, parameters: list[Parameter]) -> dict[str, Any]:
    """decay^k for what has k layers above it, itself included (Bao et al. 2022).

    Of a stack of L layers the last has decay, the first decay^L, and the embeddings below it
    decay^(L + 1). Everything else has 1: heads, and towers whose layers are not stacked as
    ".../layers/..." (a ResNet's stages).
    """
    factors: dict[str, Any] = dict.fromkeys((p.path for p in parameters), 1.0)
    if decay is None:
        return factors
    stacks = stacks_of(parameters, "optim.layer_decay")
    for parameter in parameters:
        if (tower := tower_of(parameter)) is not None:
            layers = stacks[tower]
            powers = np.power(decay, np.arange(layers, 0, -1))
            ones = (1,) * (len(parameter.shape) - 1)
            factors[parameter.path] = powers.astype(np.float32).reshape(layers, *ones)
        else:
            factors[parameter.path] = decay ** layers_above(parameter, stacks)
    return factors
