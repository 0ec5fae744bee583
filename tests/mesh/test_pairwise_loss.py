"""The pair term over a mesh is the loss of the whole batch, made on a ring and in tiles."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.losses.pairwise import Sigmoid, SoftmaxCE, pair_term
from mmjax.parallel.scores import floating
from tests.pair_oracle import CROSS, DOT, KINDS, QUICK_TO_COMPILE, Together, Towers, random_case

B, SCALE, BIAS = 24, 3.0, -0.5
# Data x fsdp x tensor, and tiles that do and do not divide a device's 24, 3, 6 or 3 rows.
MESHES = {
    (1, 1, 1): {"whole": (8, 6), "ragged": (10, 7)},
    (8, 1, 1): {"whole": (1, 3), "ragged": (2, 256)},
    (2, 2, 2): {"whole": (3, 2), "ragged": (4, 5)},
    (4, 2, 1): {"whole": (3, 1), "ragged": (2, 2)},
}
by_loss = pytest.mark.parametrize("loss", [Together(), Sigmoid()], ids=lambda x: type(x).__name__)
by_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def mesh_of(shape):
    devices = jax.devices()[: int(np.prod(shape))]
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3, devices=devices)


@functools.cache
def cases(kind):
    """No masks; duplicates and padding; and where all that one device of eight has is padding."""
    found = [random_case(kind, 0, B, duplicates=False, padding=False)]
    found += [random_case(kind, seed, B) for seed in (1, 2)]
    found[-1].weights[3:6] = 0
    return found


@functools.partial(
    jax.jit, static_argnames=("score", "loss", "tile"), compiler_options=QUICK_TO_COMPILE
)
def step(rows, columns, scale, bias, keys, weights, *, score, loss, tile):
    def term(*given):
        rows, columns, scale, bias = given
        sums = pair_term(
            *(rows, columns),
            loss=loss,
            score=score,
            scale=scale,
            bias=bias,
            keys=keys,
            weights=weights,
            tile=tile,
        )
        return sums.total, sums

    total, back, sums = jax.vjp(term, rows, columns, scale, bias, has_aux=True)
    return sums, floating(back(jnp.ones_like(total)))


def run(shape, case, loss, tile):
    """PairSums, and the gradients by rows, columns, scale, bias.

    Computed in float32, but for the cross attention: its own rounding, where all words are far from
    a region, would hide what is asked of the loss.
    """
    mesh, wide = mesh_of(shape), case.towers.kind is CROSS
    single = (lambda x: x) if wide else _single
    with jax.enable_x64(wide), jax.set_mesh(mesh):
        data = case.rows, case.columns, case.keys, case.weights
        if len(case.weights) % mesh.size == 0:
            by_batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
            data = jax.device_put(jax.tree.map(single, data), by_batch)
        rows, columns, keys, weights = jax.tree.map(single, data)
        numbers = jnp.float32(SCALE), jnp.float32(BIAS)
        found = step(
            *(rows, columns, *numbers, keys, weights),
            score=case.towers.kind.score,
            loss=loss,
            tile=tile,
        )
    return jax.tree.map(np.asarray, found)


def _single(x):
    return x.astype(np.float32) if x.dtype == np.float64 else x


def check(found, case, loss):
    sums, gradients = found
    want = case.truth(loss, SCALE, BIAS)
    assert sums.total == pytest.approx(want.total, rel=1e-5, abs=1e-5)
    assert sums.weight == case.weights.sum()
    check_gradients(gradients, want)


def check_gradients(found, want):
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(want[1:]), strict=True):
        # Scale and bias have the sum over all rows, whose parts may cancel.
        atol = 1e-5 * (B if np.ndim(wanted) == 0 else 1)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("tiles", ["whole", "ragged"])
@by_loss
@by_kind
def test_value_and_gradients_are_those_of_float64_loops(kind, loss, tiles, shape):
    for case in cases(kind):
        check(run(shape, case, loss, MESHES[shape][tiles]), case, loss)


@by_loss
def test_a_device_that_holds_nothing_but_padding_adds_nothing(loss):
    """Whatever is in its arrays, and to nobody's gradient."""
    case = random_case(DOT, 3, B)
    case.weights[3:6] = 0
    want = case.truth(loss, SCALE, BIAS)
    for tower in (case.rows, case.columns):
        tower[3:6] = np.nan
    sums, gradients = run((8, 1, 1), case, loss, MESHES[8, 1, 1]["whole"])
    assert sums.total == pytest.approx(want.total, rel=1e-5)
    assert sums.weight == case.weights.sum()
    check_gradients(gradients, want)


@by_loss
@by_kind
def test_with_padding_alone_or_one_id_for_all_there_are_no_negatives(kind, loss):
    plain = random_case(kind, 3, B, duplicates=False, padding=False)
    for case in (
        dataclasses.replace(plain, weights=0 * plain.weights),
        dataclasses.replace(plain, keys=0 * plain.keys),
    ):
        sums, gradients = run((8, 1, 1), case, loss, MESHES[8, 1, 1]["whole"])
        check((sums, gradients), case, loss)
        assert sums.right == case.weights.sum()
        if not isinstance(loss, Sigmoid):  # it judges the positives too
            assert sums.total == 0
            assert all(not leaf.any() for leaf in jax.tree.leaves(gradients))


@by_loss
@by_kind
def test_a_number_that_is_none_shows_in_the_total_unless_it_is_padding(kind, loss):
    case = random_case(kind, 1, B, duplicates=False, padding=False)
    array = case.rows["words"] if isinstance(case.rows, dict) else case.rows
    array[7] = np.nan
    for weight, finite in ((1.0, False), (0.0, True)):
        case.weights[7] = weight
        sums, gradients = run((8, 1, 1), case, loss, MESHES[8, 1, 1]["whole"])
        assert bool(np.isfinite(sums.total)) == finite
        assert bool(np.isfinite(sums.right))
        assert not finite or all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("size", [1, 21])
def test_a_batch_that_the_devices_do_not_divide_is_still_whole(size):
    case = random_case(DOT, 2, size, padding=False)
    check(run((4, 2, 1), case, SoftmaxCE(), (4, 4)), case, SoftmaxCE())


def test_bfloat16_embeddings_are_scored_and_summed_in_float32():
    case = random_case(DOT, 1, B)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (case.rows, case.columns)]
    exact = [np.asarray(x, np.float64) for x in low]
    exact, low = (dataclasses.replace(case, towers=Towers(DOT, *x)) for x in (exact, low))
    want = exact.truth(SoftmaxCE(), SCALE, BIAS)
    sums, gradients = run((4, 2, 1), low, SoftmaxCE(), (2, 2))
    assert sums.total.dtype == jnp.float32
    assert sums.total == pytest.approx(want.total, rel=1e-5)
    assert gradients[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(gradients[0]), want.rows, rtol=1e-2, atol=1e-2)


def test_no_device_ever_holds_more_than_a_tile_of_the_scores():
    big = 512
    rows = jnp.zeros((big, 16), jnp.float32)
    mesh = mesh_of((4, 2, 1))
    with jax.set_mesh(mesh):
        # Inputs on every device: only the ring can say that the scores are cut.
        everywhere = NamedSharding(mesh, PartitionSpec())
        given = [jax.device_put(x, everywhere) for x in (rows, rows)]

        def gradient(rows, columns):
            return jax.grad(lambda r: pair_term(r, columns, loss=SoftmaxCE(), tile=(16, 32)).total)(
                rows
            )

        text = jax.jit(gradient).lower(*given).compile().as_text()
    assert "f32[16,32]" in text
    for shape in (f"[{big},{big}]", f"[{big // 8},{big}]", f"[{big // 8},{big // 8}]"):
        assert f"f32{shape}" not in text
