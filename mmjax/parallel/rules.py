"""From the logical names of a tensor's axes to the axes of the device mesh.

Models name what an axis means ("embed", "heads"); this table alone says how it is cut. Flax would
drop a rule silently when its mesh axis is taken, so the mapping is made and checked here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.errors import UserError

MeshAxes = str | tuple[str, ...] | None

# Parameters are cut along fsdp (and tensor, where a matrix has a parallel axis); activations along
# the batch. What is not listed is a mistake, not a default.
LOGICAL_RULES: dict[str, MeshAxes] = {
    "vocab": "tensor",
    "position": None,
    "segment": None,
    "embed": "fsdp",
    "embed_in": None,  # of a narrow table that is widened
    "buckets": None,
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "gates": "fsdp",  # of a recurrent unit
    "state": None,  # of it, as the input of the next step
    "joint": None,
    "layers": None,
    "channels_in": None,
    "channels_out": "fsdp",
    "channels": None,  # of a norm: vectors, not worth cutting
    "spatial": None,
    "batch": ("data", "fsdp"),
    "length": None,
    "act_embed": None,
    "act_heads": "tensor",
    "act_mlp": "tensor",
    "act_vocab": "tensor",
}

# Parameters without logical names are cut along fsdp when they are at least this large.
_SHARD_BY_SHAPE_FROM = 1 << 16


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """`x` with the sharding its logical axes ask for under the current mesh; as is without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(logical_axes))


def partition_spec(logical_axes: Sequence[str | None]) -> PartitionSpec:
    """PartitionSpec of the logical axes.

    Raises ValueError for an unknown name or a mesh axis used twice: both are mistakes in a model.
    """
    axes = []
    for name in logical_axes:
        if name is not None and name not in LOGICAL_RULES:
            raise ValueError(f"no sharding rule for logical axis {name!r} in {logical_axes}")
        axes.append(None if name is None else LOGICAL_RULES[name])
    used = [a for axis in axes for a in _mesh_axes(axis)]
    if len(used) != len(set(used)):
        raise ValueError(f"axes {logical_axes} map to {axes}: a mesh axis is used twice")
    return PartitionSpec(*axes)


def axis_size(mesh: Mesh, logical_axis: str) -> int:
    """Number of pieces that a logical axis is cut into."""
    return math.prod(mesh.shape[a] for a in _mesh_axes(LOGICAL_RULES[logical_axis]))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of an abstract state.

    Args:
      tree: of ShapeDtypeStruct, boxed in Flax's partitioning metadata where the model named the
        axes (an optimiser's moments carry the boxes of their parameters).

    Returns:
      The tree without boxes, of shardings.

    Raises:
      UserError: a rule that does not divide or collides, with the parameter's name.
    """

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(leaf, meta.AxisMetadata):
            return NamedSharding(mesh, _spec_by_shape(leaf.shape, mesh))
        shape = leaf.unbox(apply_constraint=False).shape
        try:
            spec = partition_spec(leaf.names)
        except ValueError as error:
            raise UserError(f"parameter {name}: {error}.") from error
        for size, logical, axis in zip(shape, leaf.names, spec, strict=True):
            pieces = math.prod(mesh.shape[a] for a in _mesh_axes(axis))
            if size % pieces:
                keys = " x ".join(f"config.mesh.{a}" for a in _mesh_axes(axis))
                raise UserError(
                    f"parameter {name} of shape {shape}: an axis of {size} does not divide by "
                    f"{pieces} ({logical!r} is cut by {keys}); choose another mesh or another size."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=_is_box)


def unbox(tree: Any) -> Any:
    """The tree without Flax's partitioning metadata."""
    return jax.tree.map(
        lambda leaf: leaf.unbox(apply_constraint=False) if _is_box(leaf) else leaf,
        tree,
        is_leaf=_is_box,
    )


def bytes_table(params: Any) -> str:
    """One line per parameter: shape, type, how it is cut, bytes on each device.

    Args:
      params: tree of ShapeDtypeStruct or arrays with shardings.
    """
    rows, total = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        local = leaf.sharding.shard_shape(leaf.shape)
        size = math.prod(local) * np.dtype(leaf.dtype).itemsize
        total += size
        rows.append(
            (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                "x".join(map(str, leaf.shape)),
                str(leaf.dtype),
                ", ".join("-" if a is None else str(a) for a in leaf.sharding.spec),
                f"{size:,}",
            )
        )
    rows.append(("all parameters", "", "", "", f"{total:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False))
        + "  "
        + row[4].rjust(14)
        for row in rows
    )


def _spec_by_shape(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    pieces = mesh.shape["fsdp"]
    if math.prod(shape) < _SHARD_BY_SHAPE_FROM:
        return PartitionSpec()
    for axis in sorted(range(len(shape)), key=lambda i: -shape[i]):
        if shape[axis] % pieces == 0:
            return PartitionSpec(*[None] * axis, "fsdp")
    return PartitionSpec()


def _mesh_axes(axis: MeshAxes) -> tuple[str, ...]:
    if axis is None:
        return ()
    return (axis,) if isinstance(axis, str) else tuple(axis)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, meta.AxisMetadata)
