"""TPU slices that need not be there: `libtpu` describes them and compiles for them."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Iterable

import jax
from jax.experimental import topologies

from mmjax.errors import UserError

# Which slices libtpu knows, it tells of one name at a time; these are asked for.
_PLANE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SPACE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
SHAPES = {
    "v2": _PLANE,
    "v3": _PLANE,
    "v4": _SPACE,
    "v5e": _PLANE,
    "v5p": _SPACE,
    "v6e": _PLANE,
    "tpu7x": _SPACE,
}
# libtpu divides by a size of 0, which ends the process; what may follow a shape it reads itself.
_NAME = re.compile(r"\w+:[1-9]\d{0,3}(x[1-9]\d{0,3})*(_\w+)?", re.ASCII)
# Where a chip's two cores are one device to JAX, as on the machines that are let.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}


def slice_devices(name: str, slices: int = 1) -> list[jax.Device]:
    """Devices of a slice such as "v3:4x4", or of several: to be compiled for, not to be used.

    Raises:
      UserError: libtpu is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs libtpu, which compiles for TPUs without one: pip install libtpu "
            "(Linux; it is also in requirements-test.txt)."
        )
    try:
        if _NAME.fullmatch(name) is None:
            raise ValueError("it must be written as v5e:4x4 is")
        return _described(name, slices)
    except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
        generation = name.partition(":")[0]
        known = known_slices([generation] if generation in SHAPES else SHAPES)
        raise UserError(
            f"--topology={name}: libtpu knows no such slice ({_reason(error)}); it knows, among "
            f"others, {', '.join(known) or 'none of those asked for'}."
        ) from error


def known_slices(generations: Iterable[str]) -> list[str]:
    """Usual slices of these generations ("v5e") that libtpu can describe, small ones first."""
    return [name for g in generations if g in SHAPES for name in _known(g)]


@functools.cache
def _known(generation: str) -> list[str]:
    found = []
    for shape in SHAPES[generation]:
        try:
            _described(f"{generation}:{shape}", 1)
        except (jax.errors.JaxRuntimeError, ValueError, RuntimeError):
            continue
        found.append(f"{generation}:{shape}")
    return found


def _described(name: str, slices: int) -> list[jax.Device]:
    # There is no TPU to ask about itself, and none is taken from other processes.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(variable, value)
    options = dict(_OPTIONS.get(name.partition(":")[0], {}))
    if slices > 1:
        options["num_slices"] = slices
    return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].partition(": ")[2] or str(error).splitlines()[0]
