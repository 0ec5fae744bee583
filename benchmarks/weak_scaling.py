"""Weak scaling without a pod: 1, 2, 4 and 8 simulated devices, with as many examples on each.

    python -m benchmarks.weak_scaling [--out=FILE.json] [--update=benchmarks/README.md]

What a device computes must stay the same when there are more of them, but for the scores of its
rows against the whole batch; what it sends is seen beside it. Costs are of the compiled program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import document
from benchmarks.configs import Case
from mmjax.errors import UserError
from mmjax.report import update_document

DEVICES = (1, 2, 4, 8)
PER_DEVICE = 8
FLAG = "--xla_force_host_platform_device_count=8"
SMALL = Case(
    "configs/retrieval.py:demo,model=de_label",
    overrides={"model.unroll": 1, "task.query_max_length": 32},
)


def main(argv: Sequence[str]) -> None:
    """Prints the table, and keeps it where --out says."""
    parser = argparse.ArgumentParser(prog="benchmarks.weak_scaling")
    parser.add_argument("--out")
    parser.add_argument("--update", metavar="FILE")
    arguments = parser.parse_args(argv)
    # In time: JAX counts its devices when it first computes.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = scaling()
    print("\n".join(table(rows)))
    if arguments.out:
        command = " ".join(["python -m benchmarks.weak_scaling", *argv])
        found = {"command": command, "per_device_batch_size": PER_DEVICE, "rows": rows}
        Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")
    if arguments.update:
        update_document(arguments.update, "weak_scaling", "\n".join(table(rows)))


def scaling(devices: Sequence[int] = DEVICES, case: Case = SMALL) -> list[dict[str, Any]]:
    """Costs on each device of a training step, per number of devices.

    Raises:
      UserError: there are not so many devices.
    """
    import jax

    from mmjax.check.measure import measure
    from mmjax.check.subject import open_subject

    if len(jax.devices()) < max(devices):
        raise UserError(f"{len(jax.devices())} devices, not {max(devices)}: set XLA_FLAGS={FLAG}.")
    subject, rows = open_subject(case.values()), []
    for n in devices:
        found = measure(subject.with_batch(n * PER_DEVICE), jax.devices()[:n], evaluation=False)
        costs = found.train.costs
        rows.append(
            {
                "devices": n,
                "flops": costs.flops,
                "bytes_sent": costs.bytes_sent,
                "collectives": {kind: t.bytes for kind, t in costs.collectives.items()},
                "bytes": found.train.memory.total,
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table."""
    first, lines = rows[0]["flops"], ["| devices | MFLOP each | ratio | bytes sent by each |"]
    lines.append("| ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = (row["devices"], f"{row['flops'] / 1e6:,.1f}", f"{row['flops'] / first:.4f}",
                 f"{row['bytes_sent']:,.0f}")  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    try:
        main(document.command_line())
    except UserError as error:
        sys.exit(f"benchmarks.weak_scaling: {error}")
