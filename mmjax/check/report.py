"""What `--mode=check` says: a page for people, and the same as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from mmjax.check.advice import advice
from mmjax.check.measure import Compiled, Measured
from mmjax.observe.chips import GIB


def text(found: Measured) -> str:
    """The report, several lines."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in found.mesh.items())
    micro = f", {found.micro_batch_size} at a time" if found.micro_batch_size else ""
    lines = [
        found.label,
        f"{found.slice}: {found.devices} x {found.kind} ({mesh}); "
        f"global batch {found.batch_size}{micro}, in evaluation {found.eval_batch_size}",
        *(f"({note})" for note in found.notes),
        "",
        *_table(_step_rows(found), "training step, on each device"),
        "",
    ]
    if found.train.costs is not None:
        lines += [*_table(_work_rows(found), "which does, on each device"), ""]
        lines += [*_bound_lines(found), ""]
    if found.evaluation:
        rows = [(name, _of_memory(step, found)) for name, step in found.evaluation.items()]
        lines += [*_table(rows, "evaluation beside the training's state, on each device"), ""]
    return "\n".join([*lines, *_verdict(found)])


def as_json(found: Measured) -> dict[str, Any]:
    """All that was found, in bytes, FLOPs and seconds."""
    bound = found.bound
    return {
        **{
            name: getattr(found, name)
            for name in ("label", "slice", "kind", "devices", "batch_size", "micro_batch_size")
        },
        "mesh": dict(found.mesh),
        "eval_batch_size": found.eval_batch_size,
        "notes": list(found.notes),
        "fits": found.fits,
        "memory": None if found.device is None else found.device.memory,
        "train": _step_json(found.train),
        "evaluation": {name: _step_json(step) for name, step in found.evaluation.items()},
        "model_flops": found.model_flops,
        "bound": None if bound is None else {
            "seconds": bound.seconds, "by": bound.by, **dataclasses.asdict(bound),
            "examples_per_second": found.batch_size / bound.seconds, "mfu": found.mfu,
        },
        "advice": advice(found),
    }  # fmt: skip


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.2f} MiB"


def _step_json(step: Compiled) -> dict[str, Any]:
    return {
        "refused": step.refused,
        "bytes": {**dataclasses.asdict(step.memory), "total": step.memory.total},
        "costs": None if step.costs is None else dataclasses.asdict(step.costs),
    }


def _step_rows(found: Measured) -> Iterable[tuple[str, str]]:
    memory = found.train.memory
    yield "parameters", gib(memory.parameters)
    yield "optimiser", gib(memory.optimiser)
    if memory.average:
        yield "average of the parameters", gib(memory.average)
    yield "batch", gib(memory.batch)
    yield "these as they are laid out", gib(memory.arguments)
    yield "activations, gradients, temporaries", gib(memory.temporaries)
    yield "outputs beside them", gib(memory.outputs)
    yield "program", gib(memory.program)
    yield "total", _of_memory(found.train, found)


def _of_memory(step: Compiled, found: Measured) -> str:
    total = step.memory.total
    if found.device is None:
        return gib(total)
    share = total / found.device.memory
    refused = ", refused by the compiler" if step.refused else ""
    return f"{gib(total)} of {gib(found.device.memory)} ({100 * share:.0f} %{refused})"


def _work_rows(found: Measured) -> Iterable[tuple[str, str]]:
    costs = found.train.costs
    yield "FLOPs (loops counted as often as they run)", f"{costs.flops / 1e9:,.1f} G"
    if found.model_flops is not None:
        own = found.model_flops / found.devices
        yield "of the model, without recomputation", f"{own / 1e9:,.1f} G"
    yield "moved from and to memory", gib(costs.bytes_moved)
    for kind, traffic in costs.collectives.items():
        yield f"{kind}, sent in {traffic.count:,}", gib(traffic.bytes)
    if costs.bytes_across:
        yield "of all that, from slice to slice", gib(costs.bytes_across)
    if costs.unknown_loops:
        yield "loops of unknown length, counted once", str(costs.unknown_loops)
    if silent := costs.silent_kernels + costs.silent_calls:
        yield "kernels whose FLOPs are not known, counted as 0", str(silent)


def _bound_lines(found: Measured) -> Iterable[str]:
    bound = found.bound
    if bound is None:
        yield f"no bound on the step's time: no peaks of {found.kind!r} are known here."
        return
    parts = ", ".join(
        f"{name} {1e3 * getattr(bound, name):,.2f}" for name in ("compute", "memory", "links")
    )
    mfu = "" if found.mfu is None else f", MFU {100 * found.mfu:.0f} %"
    yield (
        f"a step takes at least {1e3 * bound.seconds:,.2f} ms, by {bound.by} ({parts} ms): a "
        "bound from published peaks (roofline), no prediction."
    )
    yield f"at that bound: {found.batch_size / bound.seconds:,.0f} examples/s{mfu}."


def _verdict(found: Measured) -> Iterable[str]:
    if found.fits is None:
        return [f"whether it fits is not known: nor is the memory of {found.kind!r}."]
    if found.fits:
        return ["it fits."]
    return ["it does not fit.", *(f"  try {line}" for line in advice(found))]


def _table(rows: Iterable[Sequence[str]], title: str) -> list[str]:
    rows = list(rows)
    wide = max(len(row[0]) for row in rows)
    return [title, *(f"  {name.ljust(wide)}  {value}" for name, value in rows)]
