"""Which input earns the score of a run? It is scored again with one input after another taken away.

    python -m mmjax.main --config=... --workdir=DIR --mode=audit [--split=dev] [--audit=NAME,NAME]

The same trained state, the same examples and the same candidates each time; only the dialogues that
the examples are made of are perturbed (`mmjax.data.perturb`), so that differences are paired.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax import storage
from mmjax.config import suggestion
from mmjax.data.index import build_index
from mmjax.data.perturb import INPUTS, PERTURBATIONS, differs, perturbed
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation
from mmjax.metrics.bootstrap import Sums, as_sums, paired_bootstrap
from mmjax.systems import Judge

# Not a perturbation of dialogues: fewer of them are judged.
SHARED = "shared_photos_removed"
_SHARED_INPUT = "photos that were seen in training"
_MOST = 0.5  # share of what is above chance from which on an input is said to earn the score


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a perturbation that does not exist."""
    known = (*PERTURBATIONS, SHARED)
    for name in names:
        if name not in known:
            raise UserError(
                f"--audit={name}: there is no such perturbation{suggestion(name, known)}."
            )


def audit(judge: Judge, split: str, metric: str, names: Sequence[str] = ()) -> dict[str, Any]:
    """Scores a split as it is and under each perturbation; JSON values.

    Args:
      metric: what is compared, of the evaluation's `samples`; their first one where it has none.
      names: of the perturbations, of `PERTURBATIONS` and `SHARED`; none: all.

    Returns:
      "split", "dataset", "examples", "metric", "full", "chance" (or None), "metrics", "rows", one
      per perturbation that could be applied: "name", "takes", "says", "examples", "value",
      "difference", "low", "high" (a 95 % paired bootstrap interval), "share" of what is above
      chance that is lost (or None), "metrics"; "skipped": name -> reason; "verdict".

    Raises:
      UserError: an unknown name, or none of them can be applied.
    """
    check_names(names)
    data = judge.open(split)
    full = judge.evaluate(data)
    metric = metric if metric in full.samples else next(iter(full.samples))
    rows, skipped = [], {}
    for name in names or (*PERTURBATIONS, SHARED):
        try:
            row = (_shared if name == SHARED else _taken_away)(judge, data, full, metric, name)
        except _NotApplicable as reason:
            skipped[name] = str(reason)
        else:
            rows.append(row)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(f"nothing can be taken away from {data.source.name}: {reasons}.")
    found = {
        "split": split,
        "dataset": data.source.name,
        "examples": len(_rows(data, full)),
        "metric": metric,
        "full": _sums(full, metric).value,
        "chance": full.chance.get(metric),
        "metrics": _plain(full.metrics),
        "rows": rows,
        "skipped": skipped,
    }
    return found | {"verdict": verdict(found)}


class _NotApplicable(Exception):  # noqa: N818 - it is an answer, not an error
    """The message says why a perturbation makes no sense for these data or this system."""


def _taken_away(
    judge: Judge, data: Split, full: Evaluation, metric: str, name: str
) -> dict[str, Any]:
    what = PERTURBATIONS[name]
    if what.takes not in judge.task.inputs:
        raise _NotApplicable(f"the system does not read {INPUTS[what.takes]}")
    try:
        source = perturbed(data.source, name)
    except UserError as error:
        raise _NotApplicable(str(error).rstrip(".")) from error
    if not differs(data.source, source):
        raise _NotApplicable("it changes nothing in these data")
    split = Split(source, build_index(judge.task, source, before=data.index))
    if len(split.index) == 0:
        raise _NotApplicable("it leaves no example")
    found = judge.evaluate(split)
    if not np.array_equal(_rows(split, found), _rows(data, full)):
        raise _NotApplicable("the examples would no longer be the same ones")
    pair = (_sums(full, metric), _sums(found, metric))
    row = {"name": name, "takes": INPUTS[what.takes], "says": what.says}
    return (
        row
        | _compared(full, metric, pair, len(_rows(data, full)))
        | {"metrics": _plain(found.metrics)}
    )


def _shared(judge: Judge, data: Split, full: Evaluation, metric: str, name: str) -> dict[str, Any]:
    """Only what is judged differs: the candidates stay, and nothing is computed anew."""
    try:
        train = judge.open("train").source
    except UserError as error:
        raise _NotApplicable(str(error).rstrip(".")) from error
    if train.name == data.source.name:
        raise _NotApplicable("the split is the one that was trained on")
    seen = set().union(*(_photos(train, i) for i in range(len(train))))
    records = _rows(data, full)[:, 0]
    fresh = {i for i in np.unique(records).tolist() if not _photos(data.source, i) & seen}
    kept = np.isin(records, list(fresh))
    if kept.all():
        raise _NotApplicable("no photo of the split is among those of train")
    if not kept.any():
        raise _NotApplicable("every photo of the split is among those of train, so none is left")
    sums = _sums(full, metric)
    pair = (sums, sums.only(kept))
    says = f"{int(kept.sum()):,} of {len(kept):,} examples are judged"
    return {"name": name, "takes": _SHARED_INPUT, "says": says} | _compared(
        full, metric, pair, int(kept.sum())
    )


def _photos(source: Any, i: int) -> set[str]:
    """What names the photos of a dialogue: ids, and digests of the pixels at hand."""
    shared = [photo for turn in source[i].turns for photo in turn.photos]
    return {photo.id for photo in shared} | {p.file.digest for p in shared if p.file is not None}


def _compared(
    full: Evaluation,
    metric: str,
    pair: tuple[Sums, Sums],
    examples: int,
) -> dict[str, Any]:
    before, after = pair
    difference, low, high = paired_bootstrap(after, before, groups=full.groups)
    chance, value = full.chance.get(metric), before.value
    above = None if chance is None else value - chance
    return {
        "examples": examples,
        "value": after.value,
        "difference": difference,
        "low": low,
        "high": high,
        "share": -difference / above if above is not None and above > 0 else None,
    }


def _sums(evaluation: Evaluation, metric: str) -> Sums:
    return as_sums(evaluation.samples[metric])


def _rows(split: Split, evaluation: Evaluation) -> np.ndarray:
    """[N, 2]: record and sub of what was judged."""
    rows = evaluation.rows or (split.index.record, split.index.sub)
    return np.stack([np.asarray(part, np.int64) for part in rows], axis=1)


def _plain(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence: which inputs earn the score, with the share of what is above chance.

    An input earns what is lost when it is taken away, in the way that costs most, and nothing where
    the interval of the loss reaches 0.
    """
    if found["chance"] is not None and found["full"] <= found["chance"]:
        return "The score is not above chance: no input earns it."
    costs: dict[str, Mapping[str, Any]] = {}
    for row in sorted(found["rows"], key=lambda row: -row["difference"]):
        costs[row["takes"]] = row  # the last one costs most
    earning = sorted(
        (row for row in costs.values() if row["high"] < 0), key=lambda row: row["difference"]
    )
    if not earning:
        return "Whatever is taken away, the score does not fall by more than its interval."

    most = [row for row in earning if row["share"] is not None and row["share"] >= _MOST]
    if most:
        text = f"The score is earned by {_told(most)}"
    elif earning[0]["share"] is None:
        text = f"Most is lost without {_told(earning[:1])}"
    else:
        text = (
            f"No single input earns most of the score; the most is earned by {_told(earning[:1])}"
        )
    if rest := earning[len(most) or 1 :]:
        text += f"; less by {_told(rest)}"
    free = [name for name, row in costs.items() if row["high"] >= 0]
    return text + (f"; nothing is lost without {_and(free)}." if free else ".")


def _told(rows: Sequence[Mapping[str, Any]]) -> str:
    lost = [
        f"{row['difference']:+.1f}" if row["share"] is None else percent(row["share"])
        for row in rows
    ]
    return _and([f"{row['takes']} ({lost})" for row, lost in zip(rows, lost, strict=True)])


def percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def table(found: Mapping[str, Any]) -> str:
    """The audit as Markdown: what the terminal shows, and the file beside the JSON."""
    chance = "unknown" if found["chance"] is None else f"{found['chance']:.1f}"
    lines = [
        f"**{found['metric']} on {found['dataset']}: {found['full']:.1f} "
        f"({found['examples']:,} examples; chance is {chance})**",
        "",
        f"| taken away | {found['metric']} | difference [95 %] | share of what is above chance | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in found["rows"]:
        share = "" if row["share"] is None else percent(row["share"])
        lines.append(
            f"| {row['name']} | {row['value']:.1f} | {row['difference']:+.1f} "
            f"[{row['low']:+.1f}, {row['high']:+.1f}] | {share} | {row['says']} |"
        )
    lines += ["", *(f"* {name}: skipped, {why}." for name, why in found["skipped"].items())]
    lines += [""] if found["skipped"] else []
    return "\n".join([*lines, found["verdict"]]) + "\n"


def write_audit(folder: Any, found: Mapping[str, Any]) -> None:
    """`<split>.json` and `<split>.md` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_text(folder / f"{found['split']}.json", json.dumps(found, indent=1))
    storage.write_text(folder / f"{found['split']}.md", table(found))
