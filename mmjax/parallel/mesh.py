"""The device mesh: axes data, fsdp and tensor, within a slice and over several."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mmjax.errors import UserError
from mmjax.options import MeshOptions

AXES = ("data", "fsdp", "tensor")


def make_mesh(options: MeshOptions, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of all processes), with -1 filled in.

    Where there are several slices, an axis has its size within a slice (over the fast links, ICI)
    times the number of slices along it (over the network between them, DCN); neighbours on it are
    first those of one slice.

    The axes are Auto: Linen fails on Explicit ones, and the default of `jax.make_mesh` is
    Explicit. Enter it with `jax.set_mesh`; under the older `with mesh:` constraints are dropped
    silently.

    Raises:
      UserError: the sizes do not multiply to the number of devices of a slice, or of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = _by_slice(devices)
    if len({len(members) for members in slices}) > 1:
        sizes = ", ".join(str(len(members)) for members in slices)
        raise UserError(f"the slices are not of one size ({sizes} devices): use equal ones.")
    within = {"data": options.data, "fsdp": options.fsdp, "tensor": options.tensor}
    over = {"dcn_data": options.dcn_data, "dcn_fsdp": options.dcn_fsdp}
    of_slice = " of a slice" if len(slices) > 1 else ""
    inner = (*_filled(within, len(slices[0]), f"devices{of_slice}").values(),)
    outer = (*_filled(over, len(slices), "slices").values(), 1)
    if len(slices) == 1:
        placed = _placed(inner, devices)
    else:
        placed = mesh_utils.create_hybrid_device_mesh(
            inner, outer, devices, allow_split_physical_axes=True
        )
    return Mesh(np.asarray(placed), AXES, axis_types=(AxisType.Auto,) * 3)


def _placed(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices of one slice, neighbours on an axis being neighbours on the torus."""
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        # An axis takes a part of one of the torus, such as tensor=2 on 4x4x4: no ring then.
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _by_slice(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """Devices that fast links join; only TPU slices have a number."""
    found: dict[int, list[jax.Device]] = defaultdict(list)
    for device in devices:
        found[getattr(device, "slice_index", None) or 0].append(device)
    return [found[number] for number in sorted(found)]


def _filled(sizes: Mapping[str, int], count: int, what: str) -> dict[str, int]:
    """The sizes with -1 replaced, so that they multiply to `count`."""
    text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    given = list(sizes.values())
    if given.count(-1) > 1 or any(size == 0 or size < -1 for size in given):
        raise UserError(f"config.mesh ({text}): sizes are positive, and one of them may be -1.")
    rest = math.prod(size for size in given if size != -1)
    filled = {axis: count // rest if size == -1 else size for axis, size in sizes.items()}
    if math.prod(filled.values()) != count:
        one = what.replace("slices", "slice") if count == 1 and what == "slices" else what
        raise UserError(
            f"config.mesh ({text}) does not match {count} {one}: the sizes must multiply "
            "to that number (-1 fills in)."
        )
    return filled
