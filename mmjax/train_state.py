"""Everything that training changes, as one tree: its shapes, shardings and first values."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mmjax.errors import UserError
from mmjax.optim.trained import Split, base, replace_base, whole
from mmjax.parallel import rules


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Attributes:
    step: int32, batches taken so far.
    params: what is learned; None, or an adapter, where a parameter is frozen.
    variables: other collections of the model (batch statistics); {} for most.
    opt_state: of the optax chain.
    ema: averaged parameters; None when they are not kept.
    rng: uint32 key data; the key of a step is folded from it and `step`.
    frozen: the parameters that stay as they are, see `mmjax.optim.trained`; None: all are learned.
    """

    step: jax.Array
    params: Any
    variables: Any
    opt_state: Any
    ema: Any
    rng: jax.Array
    frozen: Any = None

    def eval_variables(self) -> dict[str, Any]:
        """What the model is evaluated with: averaged parameters where they are kept."""
        params = self.params if self.ema is None else self.ema
        return {"params": whole(params, self.frozen), **self.variables}

    def base_variables(self) -> dict[str, Any]:
        """What the model is made of, without averages and adapters; of shapes too."""
        return {"params": base(self.params, self.frozen), **self.variables}


def abstract_params(module: Any, batch: Any, split: Split | None = None) -> Any:
    """Shapes of what is trained, in boxes with the names of the axes.

    Args:
      batch, split: as in `abstract_state`.
    """
    return jax.eval_shape(_init_variables(module, batch, split), jax.random.key(0))[0]


def abstract_state(
    module: Any,
    batch: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    ema: bool,
    split: Split | None = None,
) -> tuple[TrainState, Any]:
    """Shapes, types and shardings of the state, and the function that makes it.

    Args:
      batch: a batch, or its ShapeDtypeStructs: only shapes are read.
      split: parts what is trained from what is frozen; None: all is trained.

    Returns:
      (tree of ShapeDtypeStruct with shardings, boxed init function of a key).
    """
    init_variables = _init_variables(module, batch, split)

    def init(key: jax.Array) -> TrainState:
        params, frozen, variables = init_variables(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            variables=variables,
            opt_state=tx.init(params),
            # A copy: the same buffer twice in a donated state is an error.
            ema=jax.tree.map(jnp.copy, params) if ema else None,
            rng=jax.random.key_data(jax.random.fold_in(key, 1)),
            frozen=frozen,
        )

    boxed = jax.eval_shape(init, jax.random.key(0))
    placed = rules.shardings(boxed, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), rules.unbox(boxed), placed
    )
    return abstract, init


def init_state(abstract: TrainState, init: Any, seed: int, loaded: Any = None) -> TrainState:
    """The first state, each device making its own part.

    Args:
      abstract, init: from `abstract_state`.
      loaded: a tree like {"params": ..., other collections} with arrays in place of those that
        were loaded and None elsewhere; or None.
    """
    out = jax.tree.map(lambda x: x.sharding, abstract)
    make = jax.jit(lambda key: rules.unbox(init(key)), out_shardings=out)
    state = make(jax.random.key(seed))
    if loaded is None:
        return state
    variables = jax.tree.map(
        lambda given, fresh: fresh if given is None else _checked(given, fresh),
        loaded,
        state.base_variables(),
        is_leaf=lambda x: x is None,
    )
    params, frozen = replace_base(state.params, state.frozen, variables.pop("params"))
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, frozen=frozen, variables=variables, ema=ema)


def count(params: Any) -> int:
    """Number of scalars in a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def _init_variables(module: Any, batch: Any, split: Split | None) -> Any:
    """The function of a key -> (what is trained, what is frozen, other collections), in boxes."""
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    def init(key: jax.Array) -> tuple[Any, Any, dict[str, Any]]:
        first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        variables = dict(module.init(key, first, train=False))
        params, frozen = variables.pop("params"), None
        if split is not None:
            params, frozen = split(params, jax.random.fold_in(key, 2))
        return params, frozen, variables

    return init


def _checked(loaded: jax.Array, fresh: jax.Array) -> jax.Array:
    if loaded.shape != fresh.shape:
        raise UserError(f"a loaded weight of shape {loaded.shape} does not fit {fresh.shape}.")
    return jax.device_put(loaded.astype(fresh.dtype), fresh.sharding)
