"""Which parameters are trained: two trees instead of one, and the whole model from both.

What is frozen never meets the optimiser, the gradient or the average: it has no state there, and
it is bitwise the same after any number of steps. In the tree of what is trained, None stands in
its place, or an `Adapter`; in the tree of what is frozen, None stands where a parameter is trained.
Of a stack whose first layers are frozen, each tree holds its part of the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.optim.depth import layers_above, stacks_of, tower_of
from mmjax.optim.lora import Adapter, LoraOptions, make_adapter
from mmjax.optim.parameters import (
    Parameter,
    axis_names,
    boxed_like,
    describe,
    is_box,
    matching_some,
)

Split = Callable[[Any, jax.Array], tuple[Any, Any]]


def make_split(frozen: tuple[str, ...], frozen_layers: int, lora: LoraOptions) -> Split:
    """The function (parameters, key) -> (what is trained, what is frozen); see `OptimOptions`.

    The function takes boxes too. Where nothing is frozen, the second tree is None. It raises
    UserError for an expression that matches nothing, and where nothing is left to train.
    """

    def split(params: Any, key: jax.Array) -> tuple[Any, Any]:
        parameters = describe(params)
        held = [matching_some(p, "optim.frozen", parameters) for p in frozen]
        adapted = _adapted(lora, parameters)
        learned = _also_trained(lora, parameters)
        below = _frozen_below(frozen_layers, jax.tree.leaves(parameters))

        def first(parameter: Parameter) -> int | None:
            """The first layer that is trained, 0 of what is no stack; None: nothing of it is."""
            path = parameter.path
            if not learned(path) or any(matches(path) for matches in held):
                return None
            return below(parameter)

        def trained(parameter: Parameter, leaf: Any) -> Any:
            if adapted(parameter.path):
                return make_adapter(lora, parameter, leaf, key)
            start = first(parameter)
            if start is None:
                return None
            return _layers(leaf, slice(start, None)) if start else leaf

        def kept(parameter: Parameter, leaf: Any) -> Any:
            start = first(parameter)
            if start is None:
                return leaf
            return _layers(leaf, slice(start)) if start else None

        rest = jax.tree.map(kept, parameters, params)
        params = jax.tree.map(trained, parameters, params)
        if not jax.tree.leaves(params):
            raise UserError(
                "config.optim.frozen and frozen_layers cover everything: none is left to train."
            )
        return params, rest if jax.tree.leaves(rest) else None

    return split


def whole(params: Any, frozen: Any) -> Any:
    """The model's parameters, adapters added to their matrices."""

    def one(still: Any, learned: Any) -> Any:
        if isinstance(learned, Adapter):
            return learned.added_to(still)
        return _joined(still, learned)

    return jax.tree.map(one, frozen, params, is_leaf=_is_none)


def base(params: Any, frozen: Any) -> Any:
    """As `whole` without the adapters; of shapes too."""

    def one(still: Any, learned: Any) -> Any:
        return still if isinstance(learned, Adapter) else _joined(still, learned)

    return jax.tree.map(one, frozen, params, is_leaf=_is_none)


def replace_base(params: Any, frozen: Any, new: Any) -> tuple[Any, Any]:
    """Both trees with the parameters of `new` (like `base`), cut as before; adapters stay."""

    def trained(still: Any, learned: Any, given: Any) -> Any:
        if still is None:
            return given
        if learned is None or isinstance(learned, Adapter):
            return learned
        return jax.device_put(given[len(still) :], learned.sharding)

    def kept(still: Any, given: Any) -> Any:
        if still is None:
            return None
        if still.shape == given.shape:
            return given
        return jax.device_put(given[: len(still)], still.sharding)

    return (
        jax.tree.map(trained, frozen, params, new, is_leaf=_is_none),
        jax.tree.map(kept, frozen, new, is_leaf=_is_none),
    )


def _joined(still: Any, learned: Any) -> Any:
    """One of the two where the other is None; else the frozen layers before the trained ones."""
    if still is None or learned is None:
        return learned if still is None else still
    if isinstance(still, jax.ShapeDtypeStruct):
        shape = (still.shape[0] + learned.shape[0], *still.shape[1:])
        return jax.ShapeDtypeStruct(shape, still.dtype, sharding=still.sharding)
    return jnp.concatenate([still, learned])


def _frozen_below(layers: int, parameters: list[Parameter]) -> Callable[[Parameter], int | None]:
    """The first trained layer of a parameter, 0 of what is no stack; None: all of it is frozen."""
    if not layers:
        return lambda parameter: 0
    stacks = stacks_of(parameters, "optim.frozen_layers")

    def first(parameter: Parameter) -> int | None:
        if (tower := tower_of(parameter)) is not None:
            return layers if layers < stacks[tower] else None
        return None if layers_above(parameter, stacks) else 0

    return first


def _layers(leaf: Any, part: slice) -> Any:
    """Some layers of a stack, in a box where it has one."""
    value = leaf.unbox(apply_constraint=False) if is_box(leaf) else leaf
    return boxed_like(leaf, value[part], axis_names(leaf))


def _adapted(lora: LoraOptions, parameters: Any) -> Callable[[str], bool]:
    if lora.pattern is None:
        return lambda path: False
    return matching_some(lora.pattern, "optim.lora.pattern", parameters)


def _also_trained(lora: LoraOptions, parameters: Any) -> Callable[[str], bool]:
    """Whether a parameter's own values are trained, as far as adapters go."""
    if lora.pattern is None:
        return lambda path: True
    option = "optim.lora.also_train"
    some = [matching_some(pattern, option, parameters) for pattern in lora.also_train]
    adapted = _adapted(lora, parameters)
    for parameter in jax.tree.leaves(parameters):
        if adapted(parameter.path) and any(matches(parameter.path) for matches in some):
            raise UserError(
                f"config.optim.lora.pattern and config.{option} both match {parameter.path}: it "
                "has an adapter or is trained itself, not both."
            )
    return lambda path: any(matches(path) for matches in some)


def _is_none(x: Any) -> bool:
    return x is None
