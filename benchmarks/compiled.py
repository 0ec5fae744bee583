"""What each config costs on its slice, compiled, beside a golden file with budgets.

    python -m benchmarks.compiled                     # what changed, as a table for a review
    python -m benchmarks.compiled --only=rerank,...   # of some configs
    python -m benchmarks.compiled --write             # accepts it; budgets stay
    python -m benchmarks.compiled --write --raise     # and they are set anew
    python -m benchmarks.compiled --update=benchmarks/README.md   # puts the golden costs there,
                                                      # and what each saving does by itself

Costs are of one training step on one device, known exactly without a device (`mmjax.check`); of a
config also the bytes that evaluation holds, beside the training state. The exit code is 1 where a
cost is over its budget, or further from the golden one than `TOLERANCE`: XLA's passes change from
version to version.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import document
from benchmarks.configs import CASES, GOLDEN, SIZES, Case
from mmjax.check.measure import Measured, measure
from mmjax.check.report import gib
from mmjax.check.subject import open_subject
from mmjax.check.topology import slice_devices
from mmjax.errors import UserError
from mmjax.report import update_document

ALL: dict[str, Case] = {**CASES, **SIZES}
TOLERANCE = 0.05
ROOM = 1.05  # of a new budget above what was measured
COLUMNS = (
    "all", "parameters", "optimiser", "temporaries", "evaluation", "GFLOP", "moved", "sent", "fits"
)  # fmt: skip
BUDGETED = ("bytes", "evaluation", "flops", "bytes_sent")

Costs = dict[str, float]


def main(argv: Sequence[str]) -> int:
    """Measures, compares or writes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.compiled")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--raise", action="store_true", dest="raised")
    parser.add_argument("--update", metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.update:
        golden = read()
        update_document(arguments.update, "compiled", "\n".join(summary(golden)))
        update_document(arguments.update, "effects", "\n".join(effects(golden)))
        return 0
    names = arguments.only.split(",") if arguments.only else list(ALL)
    for name in names:
        if name not in ALL:
            raise UserError(f"--only={name}: there is no such case; there are {', '.join(ALL)}.")
    golden = read()
    found, sentences = {}, []
    for name in names:
        found[name] = measured(ALL[name])
        sentences += broken(name, golden.get(name), found[name])
        if arguments.write:  # after each: they take minutes
            kept = entry(found[name], golden.get(name), raised=arguments.raised)
            write({**read(), name: kept})
    if arguments.write:
        sentences = []
    print("\n".join([*changes(golden, found), *sentences]))
    return int(bool(sentences))


def measured(case: Case) -> dict[str, Any]:
    """Compiles a case and gives what the golden file keeps of it."""
    config = case.values()
    name = case.slice or config["mesh"]["slice"]
    devices, whole = slice_devices(name), case in CASES.values()
    found = measure(open_subject(config), devices, slice=name, evaluation=whole)
    return {"command": case.command(), "slice": name, "costs": costs(found), "fits": found.fits}


def costs(found: Measured) -> Costs:
    """Of a training step on one device, and the most that a step of evaluation holds there."""
    memory, work = found.train.memory, found.train.costs
    held = {
        "bytes": memory.total,
        "parameters": memory.parameters,
        "optimiser": memory.optimiser,
        "temporaries": memory.temporaries,
    }
    if found.evaluation:
        held["evaluation"] = max(step.memory.total for step in found.evaluation.values())
    if work is None:
        return held
    sent = {f"{kind} bytes": traffic.bytes for kind, traffic in work.collectives.items()}
    return {**held, "flops": work.flops, "bytes_moved": work.bytes_moved,
            "bytes_sent": work.bytes_sent, **sent}  # fmt: skip


def entry(found: Mapping[str, Any], kept: Mapping[str, Any] | None, *, raised: bool) -> Any:
    """What the golden file gets: the costs, and the budgets that there were, or new ones."""
    budgets = {} if kept is None or raised else dict(kept["budgets"])
    for key in BUDGETED:
        if key in found["costs"]:
            budgets.setdefault(key, round(ROOM * found["costs"][key]))
    return {**found, "budgets": budgets}


def broken(name: str, kept: Mapping[str, Any] | None, found: Mapping[str, Any]) -> list[str]:
    """A sentence for each budget that is passed and each cost that is not the golden one."""
    if kept is None:
        return [f"{name} is not in the golden file yet: --write adds it."]
    lines, costs = [], found["costs"]
    for key, budget in kept["budgets"].items():
        if costs.get(key, 0) > budget:
            lines.append(f"{name}: {key} {costs[key]:,.0f} is over its budget of {budget:,.0f}.")
    for key in sorted({*kept["costs"], *costs}):
        was, now = kept["costs"].get(key, 0.0), costs.get(key, 0.0)
        if abs(now - was) > TOLERANCE * max(was, now):
            lines.append(f"{name}: {key} {was:,.0f} -> {now:,.0f}: accept it with --write.")
    return lines


def changes(golden: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A Markdown table of all costs that are not exactly the golden ones."""
    rows = []
    for name, now in found.items():
        was = golden[name]["costs"] if golden.get(name) else {}
        for key in sorted({*was, *now["costs"]}):
            a, b = was.get(key, 0.0), now["costs"].get(key, 0.0)
            if a != b:
                share = f"{100 * (b - a) / a:+.1f} %" if a else "new"
                rows.append((name, key, f"{a:,.0f}", f"{b:,.0f}", share))
    if not rows:
        return ["No cost has changed."]
    return markdown(("config", "cost", "golden", "now", "change"), rows)


def summary(golden: Mapping[str, Any]) -> list[str]:
    """A Markdown table of the golden file, for a page; without what stands beside another case."""
    rows = [
        (f"`{name}`", kept["slice"], *_cells(kept))
        for name, kept in golden.items()
        if ALL[name].base is None
    ]
    return markdown(("config", "slice", *COLUMNS), rows)


def effects(golden: Mapping[str, Any]) -> list[str]:
    """A table for each case that others stand beside, which differ from it in one thing each."""
    lines = []
    for base in dict.fromkeys(case.base for case in ALL.values() if case.base):
        beside = [n for n, case in ALL.items() if case.base == base and n in golden]
        if base not in golden or not beside:
            continue
        rows = [(f"`{base}`", "", *_cells(golden[base]))]
        rows += [(f"`{name}`", ALL[name].change, *_cells(golden[name])) for name in beside]
        lines += [f"On {golden[base]['slice']}, `{golden[base]['command']}`", ""]
        lines += [*markdown(("case", "what is different", *COLUMNS), rows), ""]
    return lines[:-1]


def _cells(kept: Mapping[str, Any]) -> tuple[str, ...]:
    costs, work = kept["costs"], ("", "", "")
    if "flops" in costs:
        sent = gib(costs["bytes_sent"])
        work = (f"{costs['flops'] / 1e9:,.0f}", gib(costs["bytes_moved"]), sent)
    held = ("bytes", "parameters", "optimiser", "temporaries", "evaluation")
    held = (gib(costs[key]) if key in costs else "" for key in held)
    return (*held, *work, {True: "yes", False: "no", None: "?"}[kept["fits"]])


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def read() -> dict[str, Any]:
    """The golden file; empty where there is none."""
    return json.loads(path().read_text()) if path().exists() else {}


def write(golden: Mapping[str, Any]) -> None:
    """Writes it, in the order of the cases."""
    ordered = {name: golden[name] for name in ALL if name in golden}
    path().parent.mkdir(parents=True, exist_ok=True)
    path().write_text(json.dumps(ordered, indent=1) + "\n")


def path():
    return GOLDEN / "compiled.json"


if __name__ == "__main__":
    try:
        sys.exit(main(document.command_line()))
    except UserError as error:
        sys.exit(f"benchmarks.compiled: {error}")
