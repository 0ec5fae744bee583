"""What training on one dialogue costs in the two forms of photo-sharing intent.

    python -m benchmarks.intent_cost --out=benchmarks/results/intent_cost.json

With `prefix=separate` a dialogue is encoded anew up to each of its turns; with `prefix=shared` it
is encoded once, and every turn is scored in it. Both learn from the same turns. The batches are
those of the training split's own plan, with their lengths, buckets and padding; their FLOPs are
counted for every shape that occurs. The shapes that most of the work is in are timed, one batch of
each, the forms in turns; a shape's seconds count as often as it occurs in an epoch, and the rest of
the work is taken to go as fast. The weights are random: what they are costs nothing.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import document
from benchmarks.prepared import fit
from benchmarks.timing import alternate, compare
from benchmarks.training import Training
from configs.intent import PREFIXES, TURNS_PER_DIALOGUE
from mmjax.data.loader import Loader
from mmjax.data.plan import TrainPlan
from mmjax.data.splits import index_split, open_source
from mmjax.errors import UserError
from mmjax.observe.chips import peak_flops
from mmjax.options import DataOptions, LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.tasks.intent import IntentOptions, ModelOptions, intent_task

# Padded length of each feature of a batch.
Shape = tuple[tuple[str, int], ...]

REFERENCE = "prefix=separate"
EXTRA = {
    "turns per second": "that are learned from, the median",
    "GFLOP/s": "the median, of the FLOPs that the next column counts",
    "GFLOP per dialogue": "of the matrix products of the compiled steps, a multiply-add being two",
    "FLOPs saved": f"how many times as many {REFERENCE} needs",
    "tokens per dialogue": "that are computed, with padding",
    "padding": "share of these",
    "timed": "share of the FLOPs whose shapes were timed",
}
# Where the devices' peak is published.
SHARE = {"of the peak": "share of the devices' published bfloat16 FLOP/s"}


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.intent_cost")
    parser.add_argument("--dataset", default="photochat", help="see `DataOptions`")
    parser.add_argument("--manual_dir", help="folder with its original files")
    parser.add_argument("--data_dir", default="data", help="where prepared data are kept")
    parser.add_argument("--preset", default="minilm-l6", help="of the encoder")
    parser.add_argument("--weights", help="folder or hub id whose tokenizer is used")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of one that is trained")
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=64, help="turns of a batch, about")
    parser.add_argument("--window", type=int, default=32, help="batches sorted by length")
    parser.add_argument("--shapes", type=int, default=8, help="of each form, that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    settings = {k: v for k, v in vars(arguments).items() if not k.endswith("_dir") and k != "out"}
    return document.run(
        "intent_cost",
        argv,
        ("sentencepiece", "tokenizers", "numpy"),
        settings,
        lambda: [measure(arguments)],
        arguments.out,
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One case with both forms; its seconds are those of an epoch."""
    epochs = {f"prefix={prefix}": Epoch(prefix, arguments) for prefix in PREFIXES}
    timed = {name: epoch.dearest(arguments.shapes) for name, epoch in epochs.items()}
    runs = {
        (name, shape): functools.partial(epoch.training.step, epoch.batch(shape))
        for name, epoch in epochs.items()
        for shape in timed[name]
    }
    wall, _ = alternate(runs, rounds=arguments.rounds)
    reference = epochs[REFERENCE]
    compared = compare(
        {
            name: epoch.seconds({shape: wall[name, shape] for shape in timed[name]})
            for name, epoch in epochs.items()
        },
        amount=reference.dialogues,
        reference=REFERENCE,
    )
    peak = peak_flops(jax.devices()[0].device_kind)
    for name, epoch in epochs.items():
        values = compared["contenders"][name]
        epochs_per_second = values["rate"]["median"] / epoch.dialogues
        values["extra"] = {
            "turns per second": epochs_per_second * epoch.turns,
            "GFLOP/s": epochs_per_second * epoch.flops / 1e9,
            "GFLOP per dialogue": epoch.flops / epoch.dialogues / 1e9,
            "FLOPs saved": reference.flops / epoch.flops,
            "tokens per dialogue": epoch.tokens / epoch.dialogues,
            "padding": 1 - epoch.real_tokens / epoch.tokens,
            "timed": epoch.share(timed[name]),
        }
        if peak is not None:
            speed = epochs_per_second * epoch.flops / jax.device_count()
            values["extra"]["of the peak"] = speed / peak
    return {
        "name": f"{arguments.dataset}, {reference.dialogues:,} dialogues with {reference.turns:,} "
        f"turns: {arguments.preset}, at most {arguments.max_length} tokens",
        "unit": "dialogues per second",
        "clock": "the clock on the wall",
        "extra": EXTRA if peak is None else EXTRA | SHARE,
        **compared,
    }


class Epoch:
    """The batches of one form in an epoch of the training split, by their shape.

    Attributes:
      training: the network, and a step of it.
      dialogues, turns: that the split has.
      tokens, real_tokens: that are computed, and those that are no padding.
    """

    def __init__(self, prefix: str, arguments: argparse.Namespace):
        task = intent_task(
            IntentOptions(prefix=prefix, max_length=arguments.max_length),
            ModelOptions(
                text=arguments.preset, weights=arguments.weights, vocab_size=arguments.vocab_size
            ),
        )
        data = DataOptions(
            dataset=arguments.dataset,
            data_dir=arguments.data_dir,
            manual_dir=arguments.manual_dir,
        )
        source = open_source(data, "train")
        fit(
            task,
            source,
            arguments.data_dir,
            weights=arguments.weights,
            vocab_size=arguments.vocab_size,
        )
        index = index_split(task, data, source).index

        rows = arguments.batch_size // (TURNS_PER_DIALOGUE if prefix == "shared" else 1)
        if not 1 <= rows <= len(index):
            raise UserError(
                f"--batch_size={arguments.batch_size} makes batches of {rows} examples of {prefix} "
                f"form, and {source.name} has {len(index)}: choose another."
            )
        length = index.lengths["text"]
        plan = TrainPlan([len(index)], rows, seed=0, window=arguments.window, lengths=[length])
        self._loader = Loader(
            task, [source], [index], plan, make_mesh(MeshOptions()), LoaderOptions()
        )
        self.dialogues, self.turns = len(np.unique(index.record)), int(index.lengths["label"].sum())

        self._batches: dict[Shape, list[int]] = {}
        tokens = real_tokens = 0
        batches = len(index) // rows
        for k in range(batches):
            examples = plan.batch(k).example
            padded = {
                name: ragged.padded_length(int(index.lengths[name][examples].max()))
                for name, ragged in task.ragged.items()
            }
            self._batches.setdefault(tuple(padded.items()), []).append(k)
            tokens += rows * padded["text"]
            real_tokens += int(length[examples].sum())
        # Whole batches: what is left of an epoch costs as much as the rest.
        self._epochs = batches * rows / len(index)
        self.tokens, self.real_tokens = tokens / self._epochs, real_tokens / self._epochs

        shapes = self._loader.shapes()
        self.training = Training(task.module(), task.objective(), shapes)
        self._flops = {
            shape: len(numbers) * self.training.flops(_padded(shapes, dict(shape)))
            for shape, numbers in self._batches.items()
        }

    @property
    def flops(self) -> float:
        """Of all steps of an epoch."""
        return sum(self._flops.values()) / self._epochs

    def dearest(self, count: int) -> list[Shape]:
        """The shapes that most FLOPs are in."""
        return sorted(self._flops, key=self._flops.get, reverse=True)[:count]

    def share(self, shapes: Sequence[Shape]) -> float:
        """Of the FLOPs that are in batches of these shapes."""
        return sum(self._flops[shape] for shape in shapes) / sum(self._flops.values())

    def batch(self, shape: Shape) -> Any:
        """A batch of this shape, the same every time, on the device."""
        number = np.random.default_rng(0).choice(self._batches[shape])
        return self._loader.to_device(self._loader.host_batch(int(number)))

    def seconds(self, taken: Mapping[Shape, Sequence[float]]) -> list[float]:
        """Of an epoch, round by round, from those of one step on a batch of each timed shape."""
        share = self.share(list(taken)) * self._epochs
        rounds = zip(*taken.values(), strict=True)
        counts = [len(self._batches[shape]) for shape in taken]
        return [float(np.dot(counts, own)) / share for own in rounds]


def _padded(batch: dict[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """The batch's shapes with the ragged features of other lengths."""
    return {
        name: {
            part: jax.ShapeDtypeStruct((x.shape[0], lengths[name]), x.dtype)
            for part, x in value.items()
        }
        if name in lengths
        else value
        for name, value in batch.items()
    }


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.intent_cost: {error}")
