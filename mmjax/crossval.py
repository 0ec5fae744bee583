"""Cross-validation: every photo is tested once, by a model that never saw it.

    python -m mmjax.crossval --folds=5 --workdir=runs/coco -- \
        --config=configs/retrieval.py:model=de_img,dataset=photo_folder --config.data.manual_dir=DIR

What stands behind `--` is a command line of `mmjax.main`; the dataset must have configs
"fold-K-of-N". Each fold is a run of its own in `fold-K` of the working directory, so the same
command continues where it was stopped. Then the tests of all folds are pooled: recall, median rank,
and a permutation test of whether the recall could be chance, in `result.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mmjax import storage
from mmjax.errors import UserError
from mmjax.evaluators import RetrievalEvaluator
from mmjax.metrics.bootstrap import bootstrap_interval
from mmjax.metrics.permutation import permutation_test
from mmjax.metrics.retrieval import RankCounts, RetrievalMetric, rank_counts_from_scores
from mmjax.observe.environment import command_line
from mmjax.workdir import WorkDir

_EVERY_CANDIDATE = 1_000_000

Fold = tuple[np.ndarray, np.ndarray]


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, that of the first fold that failed where one did."""
    parser = argparse.ArgumentParser(prog="mmjax.crossval", description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=5, help="how many, at least 3")
    parser.add_argument("--workdir", type=epath.Path, required=True, help="where the runs live")
    parser.add_argument("arguments", nargs="*", metavar="-- ...", help="as for mmjax.main")
    given = parser.parse_args(argv)
    try:
        if given.folds < 3:
            raise UserError("--folds must be at least 3: train, dev and test are different folds.")
        return cross_validate(given.workdir, given.folds, given.arguments)
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2


def cross_validate(workdir: epath.Path, count: int, arguments: Sequence[str]) -> int:
    """Runs every fold and writes the pooled result; returns the exit code."""
    dataset = _dataset(arguments)
    runs = [workdir / f"fold-{k}" for k in range(1, count + 1)]
    if others := sorted(set(workdir.glob("fold-*")) - set(runs)):
        raise UserError(f"{others[0]} is of another number of folds: choose another --workdir.")
    for k, folder in enumerate(runs, start=1):
        command = [
            *(sys.executable, "-m", "mmjax.main", *arguments, f"--workdir={folder}"),
            f"--config.data.dataset={dataset}/fold-{k}-of-{count}",
            "--config.eval.test=False",
        ]
        # A finished fold is run again too: that takes seconds, and says whether it is the same run.
        for more in ([], ["--mode=predict", "--split=test", f"--top={_EVERY_CANDIDATE}"]):
            if code := _call([*command, *more]):
                return code  # it has said why
    folds = [read_fold(_answers(folder)) for folder in runs]
    result = pooled(folds)
    queries = sum(result["cross_validation"]["queries"])
    result |= _provenance(workdir, dataset, runs, queries)
    storage.write_text(workdir / "result.json", json.dumps(result, indent=1))
    print(json.dumps({key: result[key] for key in ("metrics", "intervals")}, indent=1))
    print(json.dumps(result["cross_validation"]["permutation_test"], indent=1))
    print(f"results in {workdir / 'result.json'}")
    return 0


def _call(command: Sequence[str]) -> int:
    """Runs a command to its end; a request to stop goes to it, and it saves its state."""
    process = subprocess.Popen(command)

    def pass_on(number: int, frame: Any) -> None:
        # Ctrl-C at a terminal reaches the whole group: the child has it already.
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _answers(folder: epath.Path) -> epath.Path:
    found = sorted((folder / "predictions").glob("test*.jsonl"))
    return found[-1] if found else folder / "predictions" / "test.jsonl"


def read_fold(answers: epath.Path) -> Fold:
    """Scores [Q, P] and each query's own photo [Q], from what `--mode=predict` wrote.

    Raises:
      UserError: the file is damaged, or does not hold a score for every candidate.
    """
    try:
        rows = [json.loads(line) for line in answers.read_text().splitlines()]
        photos = sorted({found["photo"] for row in rows for found in row["top"]})
        number = {name: p for p, name in enumerate(photos)}
        scores = np.full((len(rows), len(photos)), np.nan)
        for q, row in enumerate(rows):
            for found in row["top"]:
                scores[q, number[found["photo"]]] = found["score"]
        gold = np.array([number[row["photo"]] for row in rows])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{answers} cannot be read ({error}): run the same command again."
        ) from error
    if np.isnan(scores).any():
        raise UserError(f"{answers} does not hold every candidate: delete it and run again.")
    return scores, gold


def pooled(folds: Sequence[Fold], ks: Sequence[int] = (1, 5, 10)) -> dict[str, Any]:
    """The result of all folds together."""
    evaluator = RetrievalEvaluator(ks=tuple(ks))
    each = [evaluator.judge(rank_counts_from_scores(*fold), fold[1]) for fold in folds]
    # A photo's number counts within its fold.
    first = np.cumsum([0, *(scores.shape[1] for scores, _ in folds)])
    groups = np.concatenate([gold + start for (_, gold), start in zip(folds, first, strict=False)])
    counts = functools.reduce(
        RetrievalMetric(ks=tuple(ks)).merge, [RankCounts(**e.per_example) for e in each]
    )
    together = evaluator.judge(counts, groups)
    return {
        "metrics": {"test": together.metrics},
        "intervals": {
            "test": {
                name: list(bootstrap_interval(values, groups=groups))
                for name, values in together.samples.items()
            }
        },
        "cross_validation": {
            "queries": [len(gold) for _, gold in folds],
            "candidates": [scores.shape[1] for scores, _ in folds],
            "folds": [e.metrics for e in each],
            "permutation_test": {
                f"recall@{k}": dataclasses.asdict(permutation_test(folds, k)) for k in ks
            },
        },
    }


def _provenance(
    workdir: epath.Path, dataset: str, runs: Sequence[epath.Path], queries: int
) -> dict[str, Any]:
    """What `mmjax.report` must know of a result, from those of the folds."""
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    fingerprints = "".join(result["dataset"]["fingerprint"] for result in results)
    label, pixels = results[0]["label"], results[0]["config"]["data"]["pixels"]
    kept = ("format_version", "system", "task", "config", "versions", "device", "parents")
    return {key: results[0][key] for key in kept} | {
        "name": workdir.name,
        "label": f"{label}, {len(runs)} folds" + (f", {pixels} pixels" if pixels != "real" else ""),
        "command": command_line("mmjax.crossval"),
        "dataset": {
            "name": dataset,
            "fingerprint": hashlib.sha256(fingerprints.encode()).hexdigest(),
            "sizes": {"test": queries},
        },
        "steps": max(result["steps"] for result in results),
        "wall_seconds": round(sum(result["wall_seconds"] for result in results), 1),
        "test_looks": max(WorkDir(run).looks() for run in runs),
    }


def _dataset(arguments: Sequence[str]) -> str:
    """The dataset that the command line names, without a config of its own."""
    given = " ".join(arguments).replace("--config ", "--config=").split()
    configs = [a.partition("=")[2] for a in given if a.startswith("--config=")]
    variant = configs[0].partition(":")[2] if configs else ""
    named = [v.partition("=")[2] for v in variant.split(",") if v.startswith("dataset=")]
    named += [a.partition("=")[2] for a in given if a.startswith("--config.data.dataset=")]
    if not named or "/" in named[-1]:
        raise UserError(
            "name a dataset that has folds behind `--`, for instance "
            "--config=configs/retrieval.py:model=de_img,dataset=photo_folder."
        )
    return named[-1]


if __name__ == "__main__":
    sys.exit(run())
