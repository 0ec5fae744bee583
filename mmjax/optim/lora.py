"""Low-rank adapters (Hu et al. 2022): a frozen matrix W is used as W + alpha / rank * a b.

They are a change of the tree of parameters, and no model knows of them.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import limited
from mmjax.errors import UserError
from mmjax.optim.parameters import STACK, Parameter, boxed_like


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters: every other parameter is frozen, and has no optimiser state.

    What evaluates, and what a run leaves, are the matrices with their adapters added. A step takes
    the memory of one copy of these matrices and of one gradient of them.

    Attributes:
      pattern: matrices whose path matches get one, for instance
        "attention/(query|value)/kernel"; None: none do, and all parameters are trained.
      rank: of the product that is added.
      alpha: the product counts alpha / rank times.
      also_train: parameters whose path matches one of these expressions are trained as they are,
        for instance new heads.
    """

    pattern: str | None = None
    rank: int = limited(8, low=1)
    alpha: float = limited(16.0, above=0)
    also_train: tuple[str, ...] = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapter:
    """What is learned of one matrix, or of a stack of them.

    Attributes:
      a: [*layers, *inputs, rank]; normal with the variance 1 / inputs at first.
      b: [*layers, rank, *outputs]; 0 at first, so that training begins with the matrix itself.
      scale: alpha / rank.
      stacked: whether there is an axis of layers.
    """

    a: Any
    b: Any
    scale: float = dataclasses.field(metadata={"static": True})
    stacked: bool = dataclasses.field(metadata={"static": True})

    def added_to(self, kernel: Float[Array, "*w"]) -> Float[Array, "*w"]:
        """kernel + scale a b (equation 3), at the kernel's natural rank."""
        first = int(self.stacked)
        layers = (tuple(range(first)),) * 2
        product = jax.lax.dot_general(self.a, self.b, (((self.a.ndim - 1,), (first,)), layers))
        return (kernel + self.scale * product).astype(kernel.dtype)


def make_adapter(
    options: LoraOptions, parameter: Parameter, kernel: Any, key: jax.Array
) -> Adapter:
    """The adapter of one matrix.

    Args:
      kernel: the array, in its box where it has one; the new arrays take the names of its axes.
      key: of the run; each matrix draws its own numbers.

    Raises:
      UserError: it is no matrix, or a smaller one than the rank.
    """
    if parameter.matrix is None:
        raise UserError(
            f"config.optim.lora.pattern={options.pattern!r} matches {parameter.path} of shape "
            f"{parameter.shape}, which is no matrix: end it with kernel$ or name the matrices."
        )
    inputs, outputs = parameter.matrix
    if options.rank > min(parameter.sizes()):
        raise UserError(
            f"config.optim.lora.rank={options.rank} is more than {parameter.path} has: its "
            f"matrix is {parameter.sizes()[0]} x {parameter.sizes()[1]}."
        )
    layers = (0,) if parameter.stacked else ()
    shape, names = parameter.shape, parameter.axes
    fan_in = math.prod(shape[i] for i in inputs)
    shape_a = (*(shape[i] for i in (*layers, *inputs)), options.rank)
    shape_b = (*(shape[i] for i in layers), options.rank, *(shape[i] for i in outputs))
    stack = (STACK,) * len(layers)
    key = jax.random.fold_in(key, zlib.crc32(parameter.path.encode()))
    a = jax.random.normal(key, shape_a, jnp.float32) / math.sqrt(fan_in)
    return Adapter(
        a=boxed_like(kernel, a, (*stack, *(names[i] for i in inputs), None)),
        b=boxed_like(
            kernel, jnp.zeros(shape_b, jnp.float32), (*stack, None, *(names[i] for i in outputs))
        ),
        scale=options.alpha / options.rank,
        stacked=parameter.stacked,
    )
