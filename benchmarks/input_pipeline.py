"""The whole input pipeline against decoding and tokenizing alone, on the same cores.

    python -m benchmarks.input_pipeline --dataset=photo_folder --manual_dir=DIR --candidate=both \\
        --out=benchmarks/results/input_pipeline_photos.json

The pipeline reads records, makes features, pads them to batches, and places these on the devices.
The limit is what no pipeline can do without: the same texts to ids and the same photos to squares,
by the same functions, from memory, in as many threads. Decoded photos are not kept by either; what
a pipeline keeps in memory are the ids of texts, which it uses again from the second epoch on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from benchmarks import document
from benchmarks.prepared import open_training, training_loader, training_plan
from benchmarks.timing import alternate, compare
from mmjax.data.images import decode_image, squash
from mmjax.data.loader import Loader
from mmjax.data.splits import Split
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.tasks.retrieval import RetrievalTask
from mmjax.tasks.retrieval_examples import shared_photo

Input = tuple[str, str, bytes | None]


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.input_pipeline")
    parser.add_argument("--dataset", default="photochat", help="see `DataOptions`")
    parser.add_argument("--manual_dir", help="folder with its original files")
    parser.add_argument("--data_dir", default="data", help="where prepared data are kept")
    parser.add_argument("--candidate", choices=("labels", "pixels", "both"), default="labels")
    parser.add_argument("--side", type=int, default=224, help="of the squares of pixels")
    parser.add_argument("--weights", help="folder or hub id whose tokenizer is used")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of one that is trained")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=20, help="in a round, at most one epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    settings = {k: v for k, v in vars(arguments).items() if not k.endswith("_dir") and k != "out"}
    return document.run(
        "input_pipeline",
        argv,
        ("pillow", "simplejpeg", "sentencepiece", "tokenizers", "array-record", "numpy"),
        settings,
        lambda: measure(arguments),
        arguments.out,
    )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case by the clock on the wall, and one by the CPU's."""
    task, tokenizer, split = open_training(
        arguments.dataset,
        arguments.manual_dir,
        arguments.data_dir,
        candidate=arguments.candidate,
        side=arguments.side,
        weights=arguments.weights,
        vocab_size=arguments.vocab_size,
    )
    batch_size, threads = arguments.batch_size, arguments.threads
    plan = training_plan(split, batch_size)
    count = min(arguments.batches, len(split.index) // batch_size)
    texts_kept = training_loader(task, split, plan, threads=threads)
    nothing_kept = training_loader(task, split, plan, threads=threads, cached_examples=0)
    work = [inputs(task, split, plan.batch(k).example) for k in range(count)]
    limit = f"{'decoding and ' if task.photos else ''}tokenizing alone"
    seconds = alternate(
        {
            limit: lambda: alone(tokenizer, work, threads, arguments.side),
            # Until an epoch is over, nothing that was kept of an example is used again.
            "pipeline, first epoch": lambda: drain(nothing_kept, count),
            "pipeline, later epochs": lambda: drain(texts_kept, count),
        },
        rounds=arguments.rounds,
    )
    side = f"photos of {arguments.side} x {arguments.side}"
    what = {"labels": "texts", "pixels": f"texts, {side}", "both": f"texts, labels, {side}"}
    return [
        {
            "name": f"{arguments.dataset}: {what[arguments.candidate]}, by {clock}",
            "unit": unit,
            "clock": clock,
            **compare(taken, amount=count * batch_size, reference=limit),
        }
        for taken, clock, unit in zip(
            seconds,
            ("the clock on the wall", "CPU time of all threads"),
            (f"examples per second, {threads} threads", "examples per second of one core"),
            strict=True,
        )
    ]


def inputs(task: RetrievalTask, split: Split, examples: Sequence[int]) -> list[Input]:
    """Query, labels and encoded photo of each example."""
    found = []
    for example in examples:
        dialogue = split.source[int(split.index.record[example])]
        sub = int(split.index.sub[example])
        file = shared_photo(dialogue, sub)[1].file
        data = file.read() if task.photos and file is not None else None
        labels = task.labels(dialogue, sub) if task.reads else ""
        found.append((task.query(dialogue, sub), labels, data))
    return found


def alone(tokenizer: Tokenizer, batches: Sequence[list[Input]], threads: int, side: int) -> None:
    """Texts to ids and photos to squares, a batch at a time in each thread."""

    def make(batch: list[Input]) -> None:
        for query, labels, data in batch:
            tokenizer.encode(query)
            tokenizer.encode(labels)
            if data is not None:
                squash(decode_image(data, shortest=side), side)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(make, batches))


def drain(stream: Loader, count: int) -> None:
    """Takes the first batches, as a training loop does."""
    for batch in stream.batches(0, count):
        jax.block_until_ready(batch)


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.input_pipeline: {error}")
