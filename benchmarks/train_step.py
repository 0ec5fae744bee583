"""A train step of an encoder with a classifier on it, in mmjax and in PyTorch.

    python -m benchmarks.train_step --out=benchmarks/results/train_step.json

The same sizes, the same start of every row, the same update (AdamW, gradients clipped to norm 1),
and a batch without padding. PyTorch has `transformers`' BERT with its fused attention. The cases
say where the time goes: the output alone, with the gradients, the whole step, and the whole step
with dropout, which is the one that users wait for.

Each contender has a process of its own, since the threads and the memory of one slow down another.
They still take turns, of several steps each, as a step after another's is slower than one after
its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import linen as nn

from benchmarks import document
from benchmarks.timing import alternate, compare
from mmjax.errors import UserError
from mmjax.losses.objective import LocalTerm, Objective
from mmjax.models.presets import PRESETS
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.parallel.mesh import MeshOptions, make_mesh
from mmjax.steps import make_train_step
from mmjax.train_state import abstract_params, abstract_state, init_state

REFERENCE = "PyTorch"
CASES = ("the output", "the output and the gradients", "the step", "the step, with dropout")
LEARNING_RATE = 5e-5

Run = Callable[[], Any]


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_step")
    parser.add_argument("--preset", default="minilm-l6", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=4, help="steps of a turn")
    parser.add_argument("--compile", action="store_true", help="PyTorch compiled too")
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if arguments.preset not in PRESETS:
        raise UserError(f"--preset={arguments.preset}: one of {', '.join(PRESETS)}.")
    names = ("preset", "batch_size", "length", "rounds", "repeat")
    return document.run(
        "train_step",
        argv,
        ("torch", "transformers", "numpy"),
        {name: getattr(arguments, name) for name in names},
        lambda: measure(arguments),
        arguments.out,
    )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case for each part of a step."""
    config, B, L = PRESETS[arguments.preset], arguments.batch_size, arguments.length
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, config.vocab_size, (B, L)), rng.integers(0, 2, B)
    makers = {
        "mmjax": partial(mmjax_runs, config, ids, labels, unroll=config.layers),
        "mmjax, layers in a loop": partial(mmjax_runs, config, ids, labels, unroll=1),
        REFERENCE: partial(torch_runs, config, ids, labels),
    }
    if arguments.compile:
        makers["PyTorch, compiled"] = partial(torch_runs, config, ids, labels, compiled=True)
    with ExitStack() as stack:
        apart = {name: stack.enter_context(Apart(make)) for name, make in makers.items()}
        cases = []
        for case in CASES:
            runs = {
                name: partial(process.run, case, arguments.repeat)
                for name, process in apart.items()
            }
            wall, _ = alternate(runs, rounds=arguments.rounds)
            cases.append(
                {
                    "name": f"{arguments.preset}, {B} x {L}: {case}",
                    "unit": "rows per second",
                    "clock": "the clock on the wall",
                    **compare(wall, amount=B * arguments.repeat, reference=REFERENCE),
                }
            )
    return cases


class Apart:
    """Named functions in a process of their own, which is asked to run one and says when it has."""

    def __init__(self, make: Callable[[], dict[str, Run]]):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def run(self, name: str, times: int) -> None:
        """Raises UserError where the process has ended."""
        try:
            self._pipe.send((name, times))
            self._pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError("a contender's process has ended: see its message above.") from error


def _serve(make: Callable[[], dict[str, Run]], pipe: Connection) -> None:
    runs = make()
    while True:
        try:
            name, times = pipe.recv()
        except EOFError:
            return
        for _ in range(times):
            runs[name]()
        pipe.send(None)


class Classifier(nn.Module):
    """Two logits from the first token."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, jax.Array]:
        mask = jnp.ones(batch["ids"].shape, bool)
        x = Transformer(self.config, name="encoder")(batch["ids"], mask, train=train)
        return {"logits": nn.Dense(2, name="head")(x[:, 0])}


def mmjax_runs(
    config: TransformerConfig, ids: np.ndarray, labels: np.ndarray, *, unroll: int
) -> dict[str, Run]:
    """Case -> what makes it, compiled before."""

    def cross_entropy(outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        log_p = jax.nn.log_softmax(outputs["logits"])
        return -log_p[jnp.arange(len(labels)), batch["labels"]].sum(), jnp.float32(len(labels))

    mesh = make_mesh(MeshOptions())
    batch = {"ids": jnp.asarray(ids, jnp.int32), "labels": jnp.asarray(labels, jnp.int32)}
    objective = Objective([LocalTerm("ce", cross_entropy)])
    options = OptimOptions(learning_rate=LEARNING_RATE, schedule="constant")

    def module(dropout: float) -> Classifier:
        attention = config.attention.copy(dropout=dropout)
        return Classifier(
            dataclasses.replace(config, dropout=dropout, attention=attention, unroll=unroll)
        )

    def step(dropout: float) -> Run:
        with jax.set_mesh(mesh):
            tx = build_optimizer(options, 0, abstract_params(module(dropout), batch))
            abstract, init = abstract_state(module(dropout), batch, tx, mesh, ema=False)
            state = init_state(abstract, init, 0)
            train_step = make_train_step(module(dropout), objective, tx, abstract)

        def run() -> None:
            nonlocal state
            with jax.set_mesh(mesh):
                state, metrics = train_step(state, batch)
                jax.block_until_ready((state, metrics))

        return run

    still = module(0.0)
    params = jax.jit(still.init)(jax.random.key(0), batch)
    output = jax.jit(lambda p: still.apply(p, batch))
    gradients = jax.jit(jax.grad(lambda p: objective(still.apply(p, batch), batch)[0]))
    return dict(
        zip(
            CASES,
            (
                lambda: jax.block_until_ready(output(params)),
                lambda: jax.block_until_ready(gradients(params)),
                step(0.0),
                step(config.dropout),
            ),
            strict=True,
        )
    )


def torch_runs(
    config: TransformerConfig, ids: np.ndarray, labels: np.ndarray, *, compiled: bool = False
) -> dict[str, Run]:
    """The same of PyTorch."""
    inputs, wanted = torch.from_numpy(ids), torch.from_numpy(labels)

    def model(dropout: float) -> torch.nn.Module:
        torch.manual_seed(0)
        found = _TorchClassifier(config, dropout)
        return torch.compile(found) if compiled else found

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(inputs), wanted)

    still = model(0.0)

    def output() -> None:
        with torch.inference_mode():
            still(inputs)

    def gradients() -> None:
        still.zero_grad(set_to_none=True)
        loss(still).backward()

    def step(dropout: float) -> Run:
        own = model(dropout).train()
        optimizer = torch.optim.AdamW(own.parameters(), LEARNING_RATE, fused=True)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss(own).backward()
            torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimizer.step()

        return run

    runs = (output, gradients, step(0.0), step(config.dropout))
    return dict(zip(CASES, runs, strict=True))


class _TorchClassifier(torch.nn.Module):
    def __init__(self, config: TransformerConfig, dropout: float):
        super().__init__()
        described = transformers.BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention.heads,
            intermediate_size=config.feed_forward.width,
            max_position_embeddings=config.position.max_positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.encoder = transformers.BertModel(described, add_pooling_layer=False)
        self.head = torch.nn.Linear(config.width, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(ids).last_hidden_state[:, 0])


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.train_step: {error}")
