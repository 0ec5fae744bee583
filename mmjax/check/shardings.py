"""How a config's state is cut over a mesh, as a table that stays readable in a review."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from mmjax.check.subject import EXAMPLES, Subject
from mmjax.parallel.mesh import AXES
from mmjax.programs import make_training, run_schedule


def sharding_table(subject: Subject, sizes: Mapping[str, int]) -> str:
    """One line per array of the train state: its path, shape, type, and the axes that cut it.

    Nothing is compiled and no device is needed.

    Args:
      sizes: of the mesh axes "data", "fsdp" and "tensor".

    Raises:
      UserError: a parameter that does not divide.
    """
    mesh = AbstractMesh(
        tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )
    options = subject.options
    batch = subject.training_batch(mesh)
    steps = run_schedule(options, EXAMPLES).total
    state = make_training(
        subject.task, options, batch, mesh, steps=steps, examples=EXAMPLES
    ).abstract
    held = sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(state)
    )
    lines = [
        f"{subject.label}: " + " x ".join(f"{axis} {size}" for axis, size in sizes.items()),
        f"{held:,} bytes on each device",
        "",
        *_columns(_rows(state)),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _rows(state: Any) -> Iterable[Sequence[str]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        spec = leaf.sharding.spec
        yield (
            jax.tree_util.keystr(path, simple=True, separator="/"),
            "x".join(map(str, leaf.shape)) or "scalar",
            str(leaf.dtype),
            ", ".join("-" if a is None else _axis(a) for a in spec) if any(spec) else "whole",
        )


def _axis(axis: str | tuple[str, ...]) -> str:
    return axis if isinstance(axis, str) else "+".join(axis)


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
