"""Compares two retrieval runs query by query: which did A get right and B wrong?

    python -m mmjax.compare A/predictions/dev.jsonl B/predictions/dev.jsonl --out=compare.html

Both files are what `--mode=predict` wrote for the same split and candidates. The page shows every
query with both ranks and the best five of each; the difference of the recalls is printed with its
95 % paired bootstrap interval.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.answers import read_answers
from mmjax.errors import UserError
from mmjax.metrics.bootstrap import paired_bootstrap
from mmjax.metrics.retrieval import RankCounts, RetrievalMetric
from mmjax.observe.compare_page import write_compare_page

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="mmjax.compare", description=__doc__.splitlines()[0])
    parser.add_argument("a", help="predictions of one run, a .jsonl file")
    parser.add_argument("b", help="predictions of the other")
    parser.add_argument("--out", type=Path, default=Path("compare.html"), help="the page")
    given = parser.parse_args(argv)
    try:
        pairs = pair_up(read_answers(given.a, "retrieval"), read_answers(given.b, "retrieval"))
        about = {"A": _name(given.a), "B": _name(given.b)} | figures(pairs)
        try:
            write_compare_page(given.out, pairs, title="Two runs, query by query", about=about)
        except OSError as error:
            raise UserError(f"--out={given.out} cannot be written ({error.strerror}).") from error
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2
    for name, value in about.items():
        print(f"{name}  {value}")
    print(f"the page to look at: {given.out}")
    return 0


def pair_up(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """The answers of both to each query, in the order of `a`.

    Raises:
      UserError: they do not answer the same queries, or chose from other candidates.
    """
    by_id = [{answer["id"]: answer for answer in side} for side in (a, b)]
    for name, side, ids in zip("AB", (a, b), by_id, strict=True):
        if len(side) != len(ids):
            raise UserError(f"{name} answers a query twice: run --mode=predict again.")
    alone = sorted(by_id[0].keys() ^ by_id[1].keys())
    if alone:
        name = "A" if alone[0] in by_id[0] else "B"
        raise UserError(
            f"A and B answer other queries ({len(a):,} and {len(b):,}, of which {len(alone):,} are "
            f"in one of them alone; {alone[0]} is only in {name}): predict with both on the same "
            "dataset and split."
        )
    pairs = [(answer, by_id[1][answer["id"]]) for answer in a]
    for one, other in pairs:
        if one["photo"] != other["photo"]:
            raise UserError(
                f"A and B look for different photos in {one['id']} ({one['photo']} and "
                f"{other['photo']}): predict with both on the same dataset and split."
            )
    # The candidates are the photos that are looked for: both have them all, and no others.
    pool = {answer["photo"] for answer in a}
    for name, side in zip("AB", (a, b), strict=True):
        for answer in side:
            for photo in answer["top"]:
                if photo["photo"] not in pool:
                    raise UserError(
                        f"{name} chose from other candidates: {photo['photo']} is the photo of no "
                        "query. Predict with both on the same dataset and split."
                    )
    return pairs


def figures(pairs: Sequence[Pair]) -> dict[str, str]:
    """Recalls of A and B, and the difference of their sums with a 95 % interval."""
    metric, found, sums = RetrievalMetric(), [], []
    for side in zip(*pairs, strict=True):
        counts = RankCounts(
            greater=np.array([answer["above"] for answer in side], np.int64),
            equal=np.array([answer["equal"] for answer in side], np.int64),
            equal_after=np.zeros(len(side), np.int64),
        )
        found.append(metric.compute(counts))
        sums.append(metric.recall_sum(counts))
    photos = np.unique([a["photo"] for a, _ in pairs], return_inverse=True)[1]
    difference, low, high = paired_bootstrap(*sums, groups=photos)
    shown = {"queries": f"{len(pairs):,}"}
    for k in metric.ks:
        shown[f"R@{k}, A and B"] = " · ".join(f"{side[f'recall@{k}']:.1f}" for side in found)
    shown["sum, A minus B [95 %]"] = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    return shown


def _name(path: str) -> str:
    """The run's folder, and the split where it is not dev: RUN/predictions/dev.jsonl -> RUN."""
    file = Path(path)
    run_folder = file.parent.parent if file.parent.name == "predictions" else file.parent
    name = run_folder.name or str(file)
    return name if file.stem == "dev" else f"{name} ({file.stem})"


if __name__ == "__main__":
    sys.exit(run())
