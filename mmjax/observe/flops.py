"""Floating-point operations of a program, from its jaxpr.

XLA's own cost analysis counts the body of a loop once and hardly sees a fused kernel; the jaxpr
says how often each product is made, and nothing has to be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# How often their bodies run, the jaxpr does not say.
_UNKNOWN_TRIPS = ("while", "pallas_call")


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of all matrix products and convolutions of one call, over all devices: a
    multiplication and an addition are two. What else is computed is left out, as in model FLOPs
    (Chowdhery et al. 2022, appendix B). A custom kernel has what it states (`pl.CostEstimate`).

    Args:
      args: arrays or ShapeDtypeStructs; nothing is computed.

    Raises:
      ValueError: a product is in a loop whose trips are not known beforehand.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def training_flops(forward: Callable[..., Any], *args: Any) -> int:
    """Model FLOPs of a training step whose forward pass is this: each product has two more for its
    gradients, as long as both factors depend on parameters. What a backward pass computes once more
    to save memory does not count.
    """
    return 3 * matmul_flops(forward, *args)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        left = equation.invars[0].aval.shape
        (contracted, _), _ = params["dimension_numbers"]
        return (
            2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        )
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
        per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
    if (stated := params.get("cost_estimate")) is not None:  # of a custom kernel
        return int(stated.flops)
    inner = [_count(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
    if name in _UNKNOWN_TRIPS and any(inner):
        raise ValueError(f"how often the body of a {name} runs, and so its FLOPs, is not known")
    if name == "cond":
        return max(inner)
    return _times(equation) * sum(inner)


def _times(equation: core.JaxprEqn) -> int:
    """How often an equation's body runs, over all devices."""
    params = equation.params
    if equation.primitive.name == "scan":
        return params["length"]
    if equation.primitive.name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1
