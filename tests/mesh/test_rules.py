"""Sharding rules: a mistake names the parameter, a constraint takes effect, bytes add up."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.errors import UserError
from mmjax.options import MeshOptions
from mmjax.parallel import rules
from mmjax.parallel.mesh import make_mesh


def mesh(data=2, fsdp=2, tensor=2):
    return make_mesh(MeshOptions(data, fsdp, tensor), jax.devices()[:8])


def boxed(shape, *names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


@pytest.mark.parametrize(
    ("names", "spec"),
    [
        (("embed", "mlp"), P("fsdp", "tensor")),
        (("layers", "mlp", "embed"), P(None, "tensor", "fsdp")),
        (("embed", "heads", "head_dim"), P("fsdp", "tensor", None)),
        (("vocab", "embed"), P("tensor", "fsdp")),
        (("batch", "length", "act_embed"), P(("data", "fsdp"), None, None)),
        ((None, "batch"), P(None, ("data", "fsdp"))),
        ((), P()),
    ],
)
def test_names_become_mesh_axes(names, spec):
    assert rules.partition_spec(names) == spec


def test_a_name_without_a_rule_is_an_error_that_names_the_parameter():
    tree = {"tower": {"kernel": boxed((8, 8), "embed", "mpl")}}
    with pytest.raises(
        UserError, match=r"parameter tower/kernel: no sharding rule for logical axis 'mpl'"
    ):
        rules.shardings(tree, mesh())


@pytest.mark.parametrize("names", [("heads", "mlp"), ("embed", "embed"), ("batch", "embed")])
def test_names_that_collide_are_an_error_that_names_the_parameter(names):
    tree = {"tower": {"kernel": boxed((8, 8), *names)}}
    with pytest.raises(UserError, match=r"parameter tower/kernel: .*a mesh axis is used twice"):
        rules.shardings(tree, mesh())


def test_a_size_that_does_not_divide_is_an_error_that_names_the_parameter():
    tree = {"tower": {"kernel": boxed((8, 10), "embed", "mlp")}}
    with pytest.raises(
        UserError, match=r"parameter tower/kernel of shape \(8, 10\): an axis of 10 does not divide"
    ):
        rules.shardings(tree, mesh(data=1, fsdp=2, tensor=4))
    rules.shardings(tree, mesh())  # where it divides, it is no error


def test_parameters_and_their_moments_are_cut_alike_and_counters_are_not():
    import optax

    params = {"kernel": boxed((8, 16), "embed", "mlp")}
    state = jax.eval_shape(optax.adam(0.1).init, jax.tree.map(lambda x: jnp.zeros(x.shape), params))
    placed = rules.shardings(state, mesh())
    found = {str(s.spec) for s in jax.tree.leaves((placed[0].mu, placed[0].nu))}
    assert found == {str(P("fsdp", "tensor"))}
    assert placed[0].count.spec == P()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((300, 512), P(None, "fsdp")),  # the largest axis
        ((1024, 128), P("fsdp")),
        ((1001, 400), P(None, "fsdp")),  # the largest that divides
        ((1001, 333), P()),  # none divides
        ((100, 100), P()),  # too small to be worth it
        ((), P()),
    ],
)
def test_a_parameter_without_names_is_cut_by_its_shape(shape, spec):
    tree = {"table": jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert rules.shardings(tree, mesh())["table"].spec == spec


def test_a_constraint_takes_effect():
    """Trap: under the older `with mesh:` it would be dropped without a word."""

    @jax.jit
    def constrained(x):
        return rules.constrain(x * 2, "batch", "act_mlp")

    with jax.set_mesh(mesh()):
        x = jax.device_put(np.ones((8, 6), np.float32), NamedSharding(mesh(), P()))
        y = constrained(x)
    assert y.sharding.spec == P(("data", "fsdp"), "tensor")
    assert y.addressable_shards[0].data.shape == (2, 3)


def test_without_a_mesh_a_constraint_changes_nothing():
    x = jnp.ones((3, 5))
    np.testing.assert_array_equal(rules.constrain(x, "batch", "act_mlp"), x)


def test_a_wrong_name_in_a_model_is_noticed_under_a_mesh():
    with jax.set_mesh(mesh()), pytest.raises(ValueError, match="no sharding rule"):
        jax.jit(lambda x: rules.constrain(x, "batsh"))(jnp.ones(8))


def test_the_table_of_bytes_is_right():
    def leaf(shape, dtype, *spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh(), P(*spec)))

    table = rules.bytes_table(
        {
            "head": {"kernel": leaf((64, 48), jnp.float32, "fsdp", "tensor")},
            "norm": leaf((64,), jnp.float32),
            "table": leaf((256, 64), jnp.bfloat16, ("data", "fsdp"), None),
        }
    )
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["head/kernel", "64x48", "float32", "fsdp,", "tensor", f"{32 * 24 * 4:,}"]
    assert lines[1] == ["norm", "64", "float32", str(64 * 4)]
    assert lines[2][:3] == ["table", "256x64", "bfloat16"] and lines[2][-1] == f"{64 * 64 * 2:,}"
    assert lines[3] == ["all", "parameters", f"{32 * 24 * 4 + 64 * 4 + 64 * 64 * 2:,}"]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (MeshOptions(), (8, 1, 1)),
        (MeshOptions(-1, 2, 1), (4, 2, 1)),
        (MeshOptions(2, -1, 2), (2, 2, 2)),
        (MeshOptions(1, 1, 8), (1, 1, 8)),
    ],
)
def test_one_size_of_the_mesh_is_filled_in(options, shape):
    found = make_mesh(options, jax.devices()[:8])
    assert tuple(found.shape[axis] for axis in ("data", "fsdp", "tensor")) == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MeshOptions(3, 1, 1), "does not match 8 devices"),
        (MeshOptions(-1, 3, 1), "does not match 8 devices"),
        (MeshOptions(-1, -1, 1), "one of them may be -1"),
        (MeshOptions(0, 1, 1), "sizes are positive"),
        (MeshOptions(8, -2, 1), "sizes are positive"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(options, message):
    with pytest.raises(UserError, match=message):
        make_mesh(options, jax.devices()[:8])


def test_pieces_of_a_logical_axis():
    assert rules.axis_size(mesh(), "batch") == 4
    assert rules.axis_size(mesh(), "mlp") == 2
    assert rules.axis_size(mesh(), "length") == 1
