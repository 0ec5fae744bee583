"""One network trained by mmjax and by PyTorch: the same parts of a step, ready to be timed.

Each method makes what runs one part; what it returns when called is only read by tests.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.networks import Network
from benchmarks.training import OPTIM, Training
from mmjax.errors import UserError
from mmjax.losses.cross_entropy import cross_entropy
from mmjax.losses.objective import LocalTerm, Objective

Run = Callable[[], Any]


@dataclass(frozen=True)
class MmjaxContender:
    """Attributes:
    unrolled: layers stand one after another in the program, and not in a loop.
    """

    network: Network
    batch: dict[str, np.ndarray]
    unrolled: bool = True

    def product(self, side: int) -> Run:
        """One of two square float32 matrices."""
        a = jax.random.normal(jax.random.key(0), (side, side))
        product = jax.jit(jnp.matmul)
        return lambda: jax.block_until_ready(product(a, a))

    def output(self) -> Run:
        module, batch, params = self._still()
        output = jax.jit(lambda p: module.apply(p, batch)["logits"])
        return lambda: jax.block_until_ready(output(params))

    def gradients(self) -> Run:
        module, batch, params = self._still()
        gradients = jax.jit(jax.grad(lambda p: OBJECTIVE(module.apply(p, batch), batch)[0]))
        return lambda: jax.block_until_ready(gradients(params))

    def step(self, dropout: float, loaded: Any = None) -> Run:
        """`loaded`: weights to start from, as of `init_state`; gives "loss" and "grad_norm"."""
        batch = self._on_device()
        training = Training(self.network.module(dropout, self.unrolled), OBJECTIVE, batch, loaded)
        return lambda: training.step(batch)

    def _still(self) -> tuple[Any, Any, Any]:
        module, batch = self.network.module(0.0, self.unrolled), self._on_device()
        return module, batch, jax.jit(module.init)(jax.random.key(0), batch)

    def _on_device(self) -> dict[str, jax.Array]:
        return jax.tree.map(jnp.asarray, self.batch)


def _loss(outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    labels = batch["labels"]
    return cross_entropy(outputs["logits"], labels, jnp.ones(labels.shape))


OBJECTIVE = Objective([LocalTerm("cross_entropy", _loss)])


@dataclass(frozen=True)
class TorchContender:
    """Attributes:
    compiled: by `torch.compile`.
    """

    network: Network
    batch: dict[str, np.ndarray]
    compiled: bool = False

    def product(self, side: int) -> Run:
        a = torch.randn(side, side)
        return lambda: a @ a

    def output(self) -> Run:
        module, batch = self._module(0.0), self._tensors()
        output = self._made(module)

        def run() -> None:
            with torch.inference_mode():
                output(batch)

        return run

    def gradients(self) -> Run:
        module, batch = self._module(0.0), self._tensors()
        loss = self._loss(module)

        def run() -> None:
            module.zero_grad(set_to_none=True)
            loss(batch).backward()

        return run

    def step(self, dropout: float, module: torch.nn.Module | None = None) -> Run:
        """`module`: to start from; gives "loss" and "grad_norm"."""
        module = (self._module(dropout) if module is None else module).train()
        batch, loss = self._tensors(), self._loss(module)
        optimizer = torch.optim.AdamW(
            _groups(module), OPTIM.learning_rate, (OPTIM.b1, OPTIM.b2), OPTIM.eps, fused=True
        )

        def run() -> dict[str, torch.Tensor]:
            optimizer.zero_grad(set_to_none=True)
            found = loss(batch)
            found.backward()
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), OPTIM.clip_norm)
            optimizer.step()
            return {"loss": found.detach(), "grad_norm": norm}

        return run

    def _module(self, dropout: float) -> torch.nn.Module:
        torch.manual_seed(0)
        return self.network.torch_module(dropout)

    def _loss(self, module: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            logits = module(batch).flatten(0, -2)
            return torch.nn.functional.cross_entropy(logits, batch["labels"].flatten())

        return self._made(loss)

    def _made(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function) if self.compiled else function

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(x).long() for name, x in self.batch.items()}


def _groups(module: torch.nn.Module) -> list[dict[str, Any]]:
    """Biases and the scales of norms are not decayed, as in mmjax."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": OPTIM.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def check_compiler() -> None:
    """Raises UserError where `torch.compile` would find no C++ compiler."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise UserError(
            f"torch.compile needs a C++ compiler, and there is no {name!r}: install one, name "
            'another in the variable CXX, or leave "compiled" out of --contenders.'
        )
