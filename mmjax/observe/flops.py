"""Floating-point operations of a program, from its jaxpr.

XLA's own cost analysis counts the body of a loop once and hardly sees a fused kernel; the jaxpr
says how often each product is made, and nothing has to be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend import core

_KERNEL = "pallas_call"


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of all matrix products and convolutions of one call, over all devices: a
    multiplication and an addition are two. What else is computed is left out, as in model FLOPs
    (Chowdhery et al. 2022, appendix B). A custom kernel has those of its body at every place of its
    grid, also where it leaves a block out; or what it states, where that is not known.

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


def kernel_flops(jaxpr: core.ClosedJaxpr) -> int:
    """Of these, the FLOPs of custom kernels alone, on one device.

    Raises:
      ValueError: as `matmul_flops`.
    """
    return _count(jaxpr.jaxpr, in_kernels=True)


def _count(jaxpr: core.Jaxpr, in_kernels: bool = False) -> int:
    return sum(_of_equation(equation, in_kernels) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn, in_kernels: bool) -> int:
    name, params = equation.primitive.name, equation.params
    if name == _KERNEL:
        return _of_kernel(params)
    if name == "dot_general" and not in_kernels:
        left = equation.invars[0].aval.shape
        (contracted, _), _ = params["dimension_numbers"]
        return (
            2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        )
    if name == "conv_general_dilated" and not in_kernels:
        kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
        per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
    inner = [_count(jaxpr, in_kernels) for jaxpr in core.jaxprs_in_params(params)]
    if name == "while" and any(inner):
        raise ValueError(f"how often the body of a {name} runs, and so its FLOPs, is not known")
    if name == "cond":
        return max(inner)
    return _times(equation, in_kernels) * sum(inner)


def _of_kernel(params: Mapping[str, Any]) -> int:
    grid, stated = params["grid_mapping"].grid, params["cost_estimate"]
    try:
        if not all(isinstance(size, int) for size in grid):
            raise ValueError("how large the grid of a kernel is, and so its FLOPs, is not known")
        return math.prod(grid) * _count(params["jaxpr"])
    except ValueError:
        if stated is None:
            raise
        return int(stated.flops)


def _times(equation: core.JaxprEqn, one_device: bool) -> int:
    """How often an equation's body runs, over all devices or on one."""
    params = equation.params
    if equation.primitive.name == "scan":
        return params["length"]
    if equation.primitive.name == "shard_map" and not one_device:
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1
