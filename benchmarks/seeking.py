"""Does a run that continues at step 100,000 wait longer for its first batch than a new one?

    python -m benchmarks.seeking --manual_dir=DIR --out=benchmarks/results/seeking.json

A stream is opened at a batch and gives that one. Batch 1 is a control: its examples are others than
batch 0's too, with texts of other lengths.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks import document
from benchmarks.prepared import open_training, training_loader, training_plan
from benchmarks.timing import alternate, compare
from mmjax.data.loader import Loader
from mmjax.errors import UserError

POSITIONS = (0, 1, 100_000)


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.seeking")
    parser.add_argument("--dataset", default="photochat", help="see `DataOptions`")
    parser.add_argument("--manual_dir", help="folder with its original files")
    parser.add_argument("--data_dir", default="data", help="where prepared data are kept")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of the tokenizer")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    return document.run(
        "seeking",
        argv,
        ("array-record", "sentencepiece", "numpy"),
        {
            name: getattr(arguments, name)
            for name in ("dataset", "batch_size", "rounds", "vocab_size")
        },
        lambda: measure(arguments),
        arguments.out,
    )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case by the clock on the wall, and one by the CPU's."""
    task, _, split = open_training(
        arguments.dataset,
        arguments.manual_dir,
        arguments.data_dir,
        candidate="labels",
        vocab_size=arguments.vocab_size,
    )
    plan = training_plan(split, arguments.batch_size)
    # With a memory, an opening would cost less the more of the batch was seen before.
    stream = training_loader(task, split, plan, cached_examples=0)
    contenders = {f"batch {k:,}": first_batch(stream, k) for k in POSITIONS}
    wall, cpu = alternate(contenders, rounds=arguments.rounds)
    what = f"{arguments.dataset} ({len(split.index):,} examples): a stream to its first batch"
    return [
        {
            "name": f"{what}, by {clock}",
            "unit": "openings per second",
            "clock": clock,
            **compare(seconds, amount=1, reference=f"batch {POSITIONS[0]}"),
        }
        for clock, seconds in (("the clock on the wall", wall), ("CPU time of all threads", cpu))
    ]


def first_batch(stream: Loader, k: int) -> Callable[[], None]:
    """Opens a stream at batch `k`; it ends there, so that none is prepared ahead meanwhile."""
    return lambda: jax.block_until_ready(next(stream.batches(k, k + 1)))


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.seeking: {error}")
