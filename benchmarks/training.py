"""A network in training, as a run would train it, without the run around it."""

from __future__ import annotations

from typing import Any

import jax

from mmjax.losses.objective import Objective
from mmjax.observe.flops import matmul_flops
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.parallel.mesh import MeshOptions, make_mesh
from mmjax.steps import make_train_step
from mmjax.train_state import abstract_params, abstract_state, init_state

# AdamW at a constant rate, gradients clipped to norm 1.
OPTIM = OptimOptions(learning_rate=5e-5, schedule="constant", clip_norm=1.0)


class Training:
    """The state of a network, and the compiled step that changes it.

    Args of the constructor:
      shapes: a batch, or its ShapeDtypeStructs.
      loaded: weights to start from, as of `init_state`.
    """

    def __init__(self, module: Any, objective: Objective, shapes: Any, loaded: Any = None):
        self._mesh = make_mesh(MeshOptions())
        with jax.set_mesh(self._mesh):
            tx = build_optimizer(OPTIM, 0, abstract_params(module, shapes))
            abstract, init = abstract_state(module, shapes, tx, self._mesh, ema=False)
            self._state = init_state(abstract, init, 0, loaded)
            self._step = make_train_step(module, objective, tx, abstract)

    def step(self, batch: Any) -> dict[str, jax.Array]:
        """One update; waits for it, and gives its metrics."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._step(self._state, batch)
            jax.block_until_ready((self._state, metrics))
        return metrics

    def flops(self, batch: Any) -> int:
        """Of the products in one step on such a batch; what is computed twice counts twice."""
        with jax.set_mesh(self._mesh):
            return matmul_flops(self._step, self._state, batch)
