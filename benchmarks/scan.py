"""SCAN's cross attention over all pairs: ranking every text against every photo, and a train step.

    python -m benchmarks.scan --out=benchmarks/results/scan.json

PyTorch goes through the texts one by one, against all photos of a shard at once, as SCAN's authors
do; then a step keeps what every text sees of every photo for its backward pass. Both get the same
arrays; texts are of any length up to `--words`. Each contender has a process of its own for each
case, whose memory is watched: what it held at most beside what it held before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import document
from benchmarks.contenders import Run
from benchmarks.timing import alternate, compare
from benchmarks.train_step import Apart
from benchmarks.training import OPTIM, Training
from mmjax.errors import UserError
from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge
from mmjax.metrics.retrieval import rank_counts_from_embeddings
from mmjax.models.gru import GruConfig
from mmjax.models.scan import Scan, ScanConfig
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.parallel.mesh import MeshOptions, make_mesh
from mmjax.tasks.retrieval_scan import ScanModel

REFERENCE = "PyTorch, text by text"
SHARD = 128  # photos that PyTorch compares a text with at a time
FEATURES, WORD_DIM, VOCABULARY = 2048, 300, 10_000


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.scan")
    parser.add_argument("--pool", type=int, default=1000, help="texts, and photos, to rank")
    parser.add_argument("--batch_size", type=int, default=128, help="of the step")
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--words", type=int, default=64, help="of the longest text")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    sizes = ("pool", "batch_size", "regions", "words", "dim", "rounds")
    for name in sizes:
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)}: at least 1.")
    return document.run(
        "scan",
        argv,
        ("torch", "numpy"),
        {name: getattr(arguments, name) for name in sizes},
        lambda: measure(arguments),
        arguments.out,
    )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case for the ranking, and one for the step."""
    N, B = arguments.pool, arguments.batch_size
    sizes = (arguments.regions, arguments.words, arguments.dim)
    shape = f"{arguments.regions} regions, up to {arguments.words} words, {arguments.dim} wide"
    return [
        _case(
            f"ranking {N:,} photos for {N:,} texts; {shape}",
            "pairs per second",
            N * N,
            {"mmjax": partial(mmjax_ranking, N, *sizes), REFERENCE: partial(ranking, N, *sizes)},
            arguments.rounds,
        ),
        _case(
            f"a train step on {B} texts and photos; {shape}",
            "texts per second",
            B,
            {"mmjax": partial(mmjax_step, B, *sizes), REFERENCE: partial(step, B, *sizes)},
            arguments.rounds,
        ),
    ]


def _case(
    name: str, unit: str, amount: int, makers: dict[str, Callable[[], Run]], rounds: int
) -> dict[str, Any]:
    peaks = {who: multiprocessing.get_context("spawn").Value("d") for who in makers}
    with ExitStack() as stack:
        runs = {}
        for who, make in makers.items():
            apart = stack.enter_context(Apart(partial(watched, make, peaks[who])))
            runs[who] = partial(apart.run, name="run", times=1)
        wall, _ = alternate(runs, rounds=rounds)
    case = compare(wall, amount=amount, reference=REFERENCE)
    case |= {"name": name, "unit": unit, "clock": "the clock on the wall"}
    column = "MiB at most"
    case["extra"] = {column: "memory that a run needed beside what was there before it"}
    for who, values in case["contenders"].items():
        values["extra"] = {column: peaks[who].value / 2**20}
    return case


def watched(make: Callable[[], Run], peak: Any, part: str) -> Run:
    """The run, which keeps in `peak` the bytes it added to this process at most."""
    del part  # a process has one
    run = make()

    def measured() -> None:
        # Linux sets the high-water mark down to what is held now.
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        run()
        peak.value = max(peak.value, _memory("VmHWM") - before)

    return measured


def _memory(name: str) -> int:
    """Bytes, as the kernel tells them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def towers(N: int, R: int, W: int, D: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Words and regions of unit length, as the network would give them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(max(1, W // 4), W + 1, N)
    said = np.arange(W) < lengths[:, None]

    def unit(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape, dtype=np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    words = unit(N, W, D) * said[..., None]
    return {"words": words, "mask": said}, {"regions": unit(N, R, D), "mask": np.ones((N, R), bool)}


def mmjax_ranking(N: int, R: int, W: int, D: int) -> Run:
    """Counts what stands above each text's own photo."""
    texts, photos = towers(N, R, W, D)
    mesh, score = make_mesh(MeshOptions()), StackedCrossAttention()

    def run() -> np.ndarray:
        with jax.set_mesh(mesh):
            counts = rank_counts_from_embeddings(
                texts, photos, np.arange(N), score=score, block=ScanModel.block
            )
        return counts.greater

    run()  # compiled
    return run


def ranking(N: int, R: int, W: int, D: int) -> Run:
    """The same of PyTorch."""
    texts, photos = towers(N, R, W, D)
    words, regions = torch.from_numpy(texts["words"]), torch.from_numpy(photos["regions"])
    lengths = texts["mask"].sum(1)

    @torch.inference_mode()
    def run() -> np.ndarray:
        scores = torch.empty(N, N)
        for start in range(0, N, SHARD):
            part = slice(start, start + SHARD)
            scores[:, part] = text_by_text(words, lengths, regions[part]).T
        return (scores > scores.diagonal()[:, None]).sum(1).numpy()

    return run


def text_by_text(words: torch.Tensor, lengths: np.ndarray, regions: torch.Tensor) -> torch.Tensor:
    """Scores t-i AVG [photos, texts]: a text's words look for regions of all photos at once."""
    found = []
    for text, length in zip(words, lengths, strict=True):
        seekers = text[:length].expand(len(regions), -1, -1)  # [N, W, D]
        s = torch.nn.functional.leaky_relu(regions @ seekers.transpose(1, 2), 0.1)  # [N, R, W]
        s = s / (s.norm(dim=2, keepdim=True) + 1e-8)
        seen = torch.softmax(9 * s, dim=1).transpose(1, 2) @ regions  # [N, W, D]
        lengths_ = seekers.norm(dim=2) * seen.norm(dim=2)
        found.append(((seekers * seen).sum(2) / lengths_.clamp(min=1e-8)).mean(1))
    return torch.stack(found, dim=1)


def batch_of(B: int, R: int, W: int) -> dict[str, Any]:
    """Ids of words, and features of regions."""
    rng = np.random.default_rng(0)
    said = np.arange(W) < rng.integers(max(1, W // 4), W + 1, B)[:, None]
    return {
        "query": {
            "ids": np.where(said, rng.integers(1, VOCABULARY, (B, W)), 0).astype(np.int32),
            "mask": said,
        },
        "regions": rng.standard_normal((B, R, FEATURES), dtype=np.float32),
        "region_mask": np.ones((B, R), bool),
        "keys": np.arange(B, dtype=np.int32)[:, None],
        "weight": np.ones(B, np.float32),
    }


def mmjax_step(B: int, R: int, W: int, D: int) -> Run:
    """An update of the whole network."""
    batch = jax.tree.map(jnp.asarray, batch_of(B, R, W))
    module = Scan(ScanConfig(GruConfig(VOCABULARY, WORD_DIM, D, both_ways=True), joint_dim=D))
    objective = Objective(
        [
            PairTerm(
                *("retrieval", "query", "photo", "scale", HardestHinge(0.2)),
                reduction="sum",
                score=StackedCrossAttention(),
                tile=ScanModel.tile,
            )
        ]
    )
    training = Training(module, objective, batch)

    def run() -> float:
        return float(training.step(batch)["loss"])

    run()  # compiled
    return run


def step(B: int, R: int, W: int, D: int) -> Run:
    """The same of PyTorch."""
    batch = batch_of(B, R, W)
    ids, regions = torch.from_numpy(batch["query"]["ids"]), torch.from_numpy(batch["regions"])
    lengths = batch["query"]["mask"].sum(1)
    torch.manual_seed(0)
    embed, head = torch.nn.Embedding(VOCABULARY, WORD_DIM), torch.nn.Linear(FEATURES, D)
    unit = torch.nn.GRU(WORD_DIM, D, batch_first=True, bidirectional=True)
    parameters = [p for part in (embed, head, unit) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, OPTIM.learning_rate, fused=True)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            embed(ids), torch.from_numpy(lengths), batch_first=True, enforce_sorted=False
        )
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(
            unit(packed)[0], batch_first=True, total_length=W
        )
        words = _unit_length((states[..., :D] + states[..., D:]) / 2)
        scores = text_by_text(words, lengths, _unit_length(head(regions)))
        own = scores.diagonal()
        others = ~torch.eye(B, dtype=bool)
        by_text = ((0.2 + scores - own[:, None]).clamp(min=0) * others).amax(1)
        by_photo = ((0.2 + scores - own[None, :]).clamp(min=0) * others).amax(0)
        loss = by_text.sum() + by_photo.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, OPTIM.clip_norm)
        optimizer.step()
        return loss.item()

    return run


def _unit_length(x: torch.Tensor) -> torch.Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-8)


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.scan: {error}")
