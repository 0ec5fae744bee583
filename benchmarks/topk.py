"""The ten best of a million candidates for each of a thousand queries, exactly.

    python -m benchmarks.topk --out=benchmarks/results/topk.json

Random vectors: the hardest pool for an exact search, as no part of it can be left out. faiss and
mmjax use all cores. numpy has the candidates in blocks too, for all scores at once are 4 GB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import document
from benchmarks.timing import alternate, compare
from mmjax.errors import UserError
from mmjax.parallel.topk import top_k

REFERENCE = "faiss, IndexFlatIP"
BLOCK = 4096  # candidates that numpy scores at a time

Search = Callable[[], np.ndarray]


def main(argv: Sequence[str]) -> document.Document:
    """Measures, prints, and writes the document."""
    parser = argparse.ArgumentParser(prog="benchmarks.topk")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=1_000_000, help="candidates; held twice")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.k <= min(BLOCK, arguments.pool):
        raise UserError(
            f"--k={arguments.k}: between 1 and {min(BLOCK, arguments.pool):,}, the smaller one of "
            "--pool and of a block."
        )
    names = ("queries", "pool", "dim", "k", "rounds")
    return document.run(
        "topk",
        argv,
        ("faiss-cpu", "numpy"),
        {name: getattr(arguments, name) for name in names},
        lambda: measure(arguments),
        arguments.out,
    )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A case by the clock on the wall, and one by the CPU's."""
    Q, P, D, k = arguments.queries, arguments.pool, arguments.dim, arguments.k
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((Q, D), dtype=np.float32)
    pool = rng.standard_normal((P, D), dtype=np.float32)
    searches = contenders(queries, pool, k)
    wanted = searches[REFERENCE]()
    share = {name: float((search() == wanted).mean()) for name, search in searches.items()}
    own = top_k.lower(queries, pool, k).compile().memory_analysis()
    memory = (own.argument_size_in_bytes + own.temp_size_in_bytes) / pool.nbytes
    wall, cpu = alternate(searches, rounds=arguments.rounds)
    cases = []
    for clock, seconds in (("the clock on the wall", wall), ("CPU time of all threads", cpu)):
        case = compare(seconds, amount=Q, reference=REFERENCE)
        case |= {
            "name": f"top {k} of {P:,} x {D} for {Q:,} queries, by {clock}",
            "unit": "queries per second",
            "clock": clock,
            "extra": {
                "same ids": f"share of places that hold the id that {REFERENCE} found; scores that "
                "differ in float32's last bits may change places. mmjax's program holds "
                f"{memory:.2f} times the pool's bytes"
            },
        }
        for name, values in case["contenders"].items():
            values["extra"] = {"same ids": share[name]}
        cases.append(case)
    return cases


def contenders(queries: np.ndarray, pool: np.ndarray, k: int) -> dict[str, Search]:
    """Name -> a search that returns ids [Q, k]; building the index and placing arrays are done."""
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool)
    placed = jnp.asarray(queries), jnp.asarray(pool)

    def by_numpy() -> np.ndarray:
        scores = np.empty((len(queries), 0), np.float32)
        ids = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(pool), BLOCK):
            block = queries @ pool[start : start + BLOCK].T
            positions = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            scores = np.concatenate([scores, block], axis=1)
            ids = np.concatenate([ids, positions], axis=1)
            if scores.shape[1] > k:
                top = np.argpartition(scores, -k, axis=1)[:, -k:]
                scores = np.take_along_axis(scores, top, 1)
                ids = np.take_along_axis(ids, top, 1)
        return np.take_along_axis(ids, np.lexsort((ids, -scores)), 1)

    return {
        "mmjax": lambda: np.asarray(jax.block_until_ready(top_k(*placed, k))[1]),
        REFERENCE: lambda: index.search(queries, k)[1],
        "numpy, argpartition": by_numpy,
    }


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.topk: {error}")
