"""The device mesh: axes data, fsdp and tensor."""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, Mesh

from mmjax.config import MeshOptions
from mmjax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(options: MeshOptions, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of all processes), one -1 filled in.

    The axes are Auto: Linen fails on Explicit ones, and the default of `jax.make_mesh` is
    Explicit. Enter it with `jax.set_mesh`; under the older `with mesh:` constraints are dropped
    silently.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [options.data, options.fsdp, options.tensor]
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"config.mesh ({text}): sizes are positive, and one of them may be -1.")
    rest = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % rest == 0:
        sizes[sizes.index(-1)] = len(devices) // rest
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh ({text}) does not match {len(devices)} devices: the sizes must multiply "
            "to that number (-1 fills in)."
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
