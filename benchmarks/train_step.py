"""A train step of an encoder, a decoder or both, in mmjax and in PyTorch.

    python -m benchmarks.train_step --out=benchmarks/results/train_step.json
    python -m benchmarks.train_step --preset=t5-base --batch_size=4 --cases=dropout \\
        --contenders=unrolled,loop,pytorch,compiled

The same sizes, the same loss, the same update (AdamW, gradients clipped to norm 1), and a batch
without padding. PyTorch has the networks of `transformers` with their fused attention, as they are
and compiled. The cases say where the time goes: the output alone, with the gradients, the whole
step, and the whole step with dropout, which is the one that users wait for. Beside the rates stand
the model FLOPs that they amount to, and their share of what the machine can do at best.

Each contender has a process of its own, since the threads and the memory of one slow down another.
They still take turns, of several steps each, as a step after another's is slower than one after
its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import document
from benchmarks.apart import Apart
from benchmarks.contenders import MmjaxContender, Run, TorchContender, check_compiler
from benchmarks.networks import NETWORKS, Network
from benchmarks.timing import Seconds, alternate, compare
from mmjax.errors import UserError
from mmjax.observe.flops import matmul_flops, training_flops

REFERENCE = "PyTorch"
CONTENDERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "unrolled": ("mmjax", partial(MmjaxContender, unrolled=True)),
    "loop": ("mmjax, layers in a loop", partial(MmjaxContender, unrolled=False)),
    "pytorch": (REFERENCE, TorchContender),
    "compiled": ("PyTorch, compiled", partial(TorchContender, compiled=True)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Attributes:
    make: contender -> what runs this part of its step.
    flops: from the forward pass: the model FLOPs of the part.
    """

    name: str
    make: Callable[[MmjaxContender | TorchContender], Run]
    flops: Callable[..., int]


CASES = {
    "output": Case("the output", lambda c: c.output(), matmul_flops),
    "gradients": Case("the output and the gradients", lambda c: c.gradients(), training_flops),
    "step": Case("the step", lambda c: c.step(0.0), training_flops),
    "dropout": Case("the step, with dropout", lambda c: c.step(c.network.dropout), training_flops),
}
PRODUCT = "product"
SPEED, SHARE = "GFLOP/s", "of the best product's"
EXTRA = {
    SPEED: "model FLOPs of a second, the median: of the matrix products, a multiply-add being two "
    "of them, and gradients twice the forward pass",
    SHARE: "that, as a share of the fastest product of two float32 matrices in this run, "
    "whichever of the contenders made it: there is no published peak of this processor",
}


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_step")
    parser.add_argument("--preset", default="minilm-l6", help=f"one of {', '.join(NETWORKS)}")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--target_length", type=int, default=2, help="of an encoder-decoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=4, help="steps of a turn")
    parser.add_argument("--cases", type=_names, default=[*CASES], help=f"of {', '.join(CASES)}")
    parser.add_argument(
        "--contenders",
        type=_names,
        default=["unrolled", "loop", "pytorch"],
        help=f"of {', '.join(CONTENDERS)}",
    )
    parser.add_argument("--product", type=int, default=2048, help="side of the best product's")
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    _check(arguments)
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    return document.run(
        "train_step",
        argv,
        ("torch", "transformers", "numpy"),
        settings,
        lambda: measure(arguments),
        arguments.out,
    )


def _names(text: str) -> list[str]:
    return text.split(",")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.preset not in NETWORKS:
        raise UserError(f"--preset={arguments.preset}: one of {', '.join(NETWORKS)}.")
    for option, known in (("cases", CASES), ("contenders", CONTENDERS)):
        for name in getattr(arguments, option):
            if name not in known:
                raise UserError(f"--{option} names {name!r}: there are {', '.join(known)}.")
    if "pytorch" not in arguments.contenders:
        raise UserError('--contenders lacks "pytorch", which the others are compared with.')
    if "compiled" in arguments.contenders:
        check_compiler()
    if (backend := jax.default_backend()) != "cpu":
        raise UserError(
            f"PyTorch computes on the CPU here and JAX on {backend}: set JAX_PLATFORMS=cpu."
        )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case for each part of a step, and before them one for the best that the machine does."""
    B, L, repeat, side = (
        getattr(arguments, name) for name in ("batch_size", "length", "repeat", "product")
    )
    network = NETWORKS[arguments.preset]
    batch = network.batch(B, L, arguments.target_length)
    with ExitStack() as stack:
        apart = {}
        for key in arguments.contenders:
            name, kind = CONTENDERS[key]
            process = Apart(partial(_part, kind(network, batch), side))
            apart[name] = stack.enter_context(process)

        def turns(part: str) -> Seconds:
            runs = {name: partial(process.run, part, repeat) for name, process in apart.items()}
            return alternate(runs, rounds=arguments.rounds)[0]

        products = compare(turns(PRODUCT), amount=repeat * 2e-9 * side**3, reference=REFERENCE)
        best = 1e9 * max(x["rate"]["high"] for x in products["contenders"].values())
        cases = [
            {
                "name": f"the product of two float32 matrices, {side} x {side}",
                "unit": SPEED,
                "clock": "the clock on the wall",
                **products,
            }
        ]
        for key in arguments.cases:
            case = CASES[key]
            flops = case.flops(*_forward(network, batch))
            compared = compare(turns(key), amount=B * repeat, reference=REFERENCE)
            for values in compared["contenders"].values():
                speed = values["rate"]["median"] / B * flops
                values["extra"] = {SPEED: speed / 1e9, SHARE: speed / best}
            cases.append(
                {
                    "name": f"{arguments.preset}, {B} x {L}: {case.name}",
                    "unit": "rows per second",
                    "clock": "the clock on the wall",
                    "flops": flops,
                    "extra": EXTRA,
                    **compared,
                }
            )
    return cases


def _forward(network: Network, batch: dict[str, np.ndarray]) -> tuple[Any, ...]:
    """The forward pass and what it is called with, as shapes."""
    module = network.module(0.0, unrolled=False)
    variables = jax.eval_shape(module.init, jax.random.key(0), batch)
    return module.apply, variables, batch


def _part(contender: MmjaxContender | TorchContender, side: int, name: str) -> Run:
    return contender.product(side) if name == PRODUCT else CASES[name].make(contender)


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.train_step: {error}")
