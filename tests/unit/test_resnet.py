"""What the ResNet and its parts promise whatever weights they hold."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.models.batch_norm import BatchNorm
from mmjax.models.convolution import convolve, max_pool
from mmjax.models.image_tower import REMAT_POLICIES
from mmjax.models.presets import IMAGE_PRESETS
from mmjax.models.resnet import ResNet, ResNetConfig
from mmjax.parallel.rules import LOGICAL_RULES, partition_spec

SMALL = ResNetConfig((3,), (12,), "bottleneck", stem="small", stem_width=8, batch_norm_group=2)


# Batch normalisation


def values(seed: int = 0, shape=(6, 3, 2, 4)) -> np.ndarray:
    return (2 + 3 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def norm_variables(channels: int = 4):
    rng = np.random.default_rng(9)
    scale, bias, mean, variance = rng.uniform(0.5, 2, (4, channels)).astype(np.float32)
    return {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "variance": variance},
    }


def by_hand(x, present, groups, variables):
    """Output, new running mean and variance, in float64 and one channel at a time."""
    x = x.astype(np.float64)
    scale, bias = (variables["params"][k].astype(np.float64) for k in ("scale", "bias"))
    out = np.empty_like(x)
    means, variances = [], []
    for rows in np.split(np.arange(len(x)), groups):
        counted = [row for row in rows if present[row]]
        group_mean, group_variance = [], []
        for c in range(x.shape[-1]):
            seen = x[counted, :, :, c].ravel()
            mean, spread = seen.mean(), np.sqrt(seen.var() + 1e-5)
            out[rows, :, :, c] = (x[rows, :, :, c] - mean) / spread * scale[c] + bias[c]
            group_mean.append(mean)
            group_variance.append(seen.var(ddof=1))
        means.append(group_mean)
        variances.append(group_variance)
    old = variables["batch_stats"]
    running_mean = 0.9 * old["mean"] + 0.1 * np.mean(means, axis=0)
    return out, running_mean, 0.9 * old["variance"] + 0.1 * np.mean(variances, axis=0)


def run_norm(x, present=None, *, groups=1, train=True):
    mode = ("global", 1) if groups == 1 else ("groups", len(x) // groups)
    module = BatchNorm(*mode)
    return module.apply(norm_variables(), x, train, present, mutable=["batch_stats"])


PRESENT = {"all": None, "some": np.array([True, False, True, True, True, False])}


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rows", PRESENT)
def test_batch_norm_equals_the_formula_in_float64(groups, rows):
    x, present = values(), PRESENT[rows]
    out, mean, variance = by_hand(
        x, np.ones(6, bool) if present is None else present, groups, norm_variables()
    )
    actual, changed = run_norm(x, present, groups=groups)
    np.testing.assert_allclose(actual, out, atol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["variance"], variance, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rows", PRESENT)
def test_batch_norm_gradients_equal_differences_in_float64(groups, rows):
    x, present = values(), PRESENT[rows]
    counted = np.ones(6, bool) if present is None else present
    weight, way = values(1), values(2)
    variables = norm_variables()

    def loss(params, x):
        both = {**variables, "params": params}
        mode = ("global", 1) if groups == 1 else ("groups", 2)
        out, _ = BatchNorm(*mode).apply(both, x, True, present, mutable=["batch_stats"])
        return jnp.sum(out * weight)

    to_params, to_x = jax.grad(loss, argnums=(0, 1))(variables["params"], x)

    def exact(step, **change):
        changed = {**variables, "params": {**variables["params"], **change}}
        moved = x + step * way.astype(np.float64)
        return np.sum(by_hand(moved, counted, groups, changed)[0] * weight)

    slope = (exact(1e-5) - exact(-1e-5)) / 2e-5
    np.testing.assert_allclose(np.sum(np.asarray(to_x, np.float64) * way), slope, rtol=1e-4)
    for name in ("scale", "bias"):
        for c in range(4):
            unit = np.eye(4)[c]
            value = variables["params"][name]
            difference = exact(0, **{name: value + unit}) - exact(0, **{name: value})
            np.testing.assert_allclose(to_params[name][c], difference, rtol=1e-4, atol=1e-3)


def test_a_large_mean_does_not_swallow_the_variance():
    x = (4000 + np.random.default_rng(0).normal(size=(64, 4, 4, 4))).astype(np.float32)
    expected, _, variance = by_hand(x, np.ones(64, bool), 1, norm_variables())
    actual, changed = run_norm(x)
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    np.testing.assert_allclose(changed["batch_stats"]["variance"], variance, rtol=1e-4)


def test_statistics_of_bfloat16_values_are_float32():
    x = jnp.asarray(values(shape=(64, 8, 8, 4)), jnp.bfloat16)
    out, changed = run_norm(x)
    assert out.dtype == jnp.bfloat16
    expected, mean, variance = by_hand(
        np.asarray(x, np.float32), np.ones(64, bool), 1, norm_variables()
    )
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, atol=0.03)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["variance"], variance, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_group_without_a_present_row_leaves_the_running_statistics_alone(groups):
    x = values()
    present = np.zeros(6, bool)
    out, changed = run_norm(x, present, groups=groups)
    assert np.isfinite(out).all()
    jax.tree.map(
        np.testing.assert_array_equal, changed["batch_stats"], norm_variables()["batch_stats"]
    )
    if groups == 2:
        present[3:] = True
        _, changed = run_norm(x, present, groups=2)
        _, alone = run_norm(x[3:])
        np.testing.assert_allclose(
            changed["batch_stats"]["mean"], alone["batch_stats"]["mean"], rtol=1e-6
        )


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ValueError, match="batch of 6 rows does not divide into groups of 4"):
        BatchNorm("groups", 4).apply(norm_variables(), values(), True, mutable=["batch_stats"])


# Convolution and pooling


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(9, 8, 3, 1), (9, 8, 3, 2), (12, 11, 7, 2), (4, 3, 3, 1), (2, 2, 3, 2), (9, 8, 1, 2)],
)
def test_convolution_and_its_gradients_are_the_sums_that_define_them(height, width, size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 3))
    kernel = rng.normal(size=(size, size, 3, 4))
    h, w, p = -(-height // stride), -(-width // stride), size // 2
    dy = rng.normal(size=(2, h, w, 4))
    out, dx, dk = np.zeros((2, h, w, 4)), np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j, a, b in np.ndindex(h, w, size, size):
        row, column = stride * i + a - p, stride * j + b - p
        if 0 <= row < height and 0 <= column < width:
            out[:, i, j] += x[:, row, column] @ kernel[a, b]
            dx[:, row, column] += dy[:, i, j] @ kernel[a, b].T
            dk[a, b] += x[:, row, column].T @ dy[:, i, j]
    x, kernel, dy = (a.astype(np.float32) for a in (x, kernel, dy))
    actual, back = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
    for ours, exact in zip((actual, *back(dy)), (out, dx, dk), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-4)


@pytest.mark.parametrize(("size", "side"), [(1, 8), (3, 8), (3, 4)])
def test_gradients_of_kernels_are_summed_in_float32_from_bfloat16(size, side):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, side, side, 4)), jnp.bfloat16)
    dy = jnp.asarray(rng.normal(size=(8, side, side, 6)), jnp.bfloat16)
    kernel = rng.normal(size=(size, size, 4, 6)).astype(np.float32)
    dx, dk = jax.vjp(convolve, x, kernel)[1](dy)
    dx_exact, dk_exact = jax.vjp(convolve, x.astype(jnp.float32), kernel)[1](dy.astype(jnp.float32))
    np.testing.assert_allclose(dk, dk_exact, rtol=1e-4, atol=1e-4)
    assert dx.dtype == jnp.bfloat16
    assert np.linalg.norm(dx.astype(jnp.float32) - dx_exact) < 0.01 * np.linalg.norm(dx_exact)


def test_max_pool_and_its_gradient_take_the_first_largest_value():
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 0, (2, 7, 6, 2)).astype(np.float32)  # negative, with many ties
    dy = rng.normal(size=(2, 4, 3, 2)).astype(np.float32)
    out, dx = np.zeros_like(dy), np.zeros_like(x)
    for n, i, j, c in np.ndindex(dy.shape):
        window = [
            (x[n, row, column, c], -row, -column)
            for row in range(max(2 * i - 1, 0), min(2 * i + 2, 7))
            for column in range(max(2 * j - 1, 0), min(2 * j + 2, 6))
        ]
        value, row, column = max(window)
        out[n, i, j, c] = value
        dx[n, -row, -column, c] += dy[n, i, j, c]
    actual, back = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(actual, out)
    np.testing.assert_allclose(back(dy)[0], dx, atol=1e-6)


# The network


def images(batch: int = 6, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


@functools.cache
def initialised():
    """Variables of SMALL, its running statistics no longer those of the start."""
    variables = nn.unbox(jax.jit(ResNet(SMALL).init)(jax.random.key(0), images()))
    _, changed = run(variables, images(seed=1))
    return {**variables, **changed}


@functools.partial(jax.jit, static_argnames=("config", "train"))
def run(variables, x, present=None, *, config=SMALL, train=True):
    return ResNet(config).apply(variables, x, train, present, mutable=["batch_stats"])


@functools.partial(jax.jit, static_argnames="config")
def gradient(variables, x, present=None, *, config=SMALL):
    def loss(params):
        out, changed = run({**variables, "params": params}, x, present, config=config)
        return jnp.sum(jnp.sin(out)), changed

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def assert_trees_close(actual, expected, atol=1e-4):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


def test_features_are_float32_and_the_mean_of_the_grid():
    grid = jax.jit(functools.partial(ResNet(SMALL).apply, method=ResNet.grid))(
        initialised(), images()
    )
    features, _ = run(initialised(), images(), train=False)
    assert grid.shape == (6, 8, 8, 12)
    assert features.shape == (6, SMALL.width) and features.dtype == jnp.float32
    np.testing.assert_allclose(features, np.mean(grid, axis=(1, 2)), atol=1e-6)


def test_evaluation_uses_the_running_statistics_row_by_row():
    out, changed = run(initialised(), images(), train=False)
    jax.tree.map(
        np.testing.assert_array_equal, changed["batch_stats"], initialised()["batch_stats"]
    )
    one, _ = run(initialised(), images()[:1], train=False)
    np.testing.assert_allclose(out[:1], one, atol=1e-5)


def test_rows_without_an_image_touch_nothing():
    present = np.array([True, True, False, True, False, True])
    x = images()
    expected = gradient(initialised(), x[present])
    for filling in (0, np.nan, 1e30):
        x[~present] = filling
        actual = gradient(initialised(), x, present)
        assert_trees_close(actual, expected)
    out, _ = run(initialised(), x, present)
    assert not out[~present].any() and out[present].any()


def test_groups_are_batches_of_their_own():
    config = dataclasses.replace(SMALL, batch_norm="groups")
    out, changed = run(initialised(), images(), config=config)
    parts = [run(initialised(), images()[i : i + 2]) for i in (0, 2, 4)]
    np.testing.assert_allclose(out, np.concatenate([part[0] for part in parts]), atol=1e-4)
    mean = jax.tree.map(lambda *stats: np.mean(stats, axis=0), *[part[1] for part in parts])
    assert_trees_close(changed, mean)
    assert not np.allclose(out, run(initialised(), images())[0], atol=0.01)


def test_frozen_statistics_stay_bit_for_bit_while_scales_learn():
    config = dataclasses.replace(SMALL, batch_norm="frozen")
    (_, changed), grads = gradient(initialised(), images(), config=config)
    jax.tree.map(
        np.testing.assert_array_equal, changed["batch_stats"], initialised()["batch_stats"]
    )
    out, _ = run(initialised(), images(), config=config)
    np.testing.assert_array_equal(out, run(initialised(), images(), train=False)[0])
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.any(leaf), jax.tree_util.keystr(path)


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_memory_choices_leave_values_gradients_and_statistics_alone(remat):
    config = dataclasses.replace(SMALL, remat=remat)
    actual = gradient(initialised(), images(), config=config)
    assert_trees_close(actual, gradient(initialised(), images()))


def test_scanned_blocks_differ_from_each_other_and_all_are_used():
    kernel = initialised()["params"]["stage1"]["rest"]["conv2"]["kernel"]
    assert kernel.shape[0] == 2 and not np.allclose(kernel[0], kernel[1])
    _, grads = gradient(initialised(), images())
    assert all(np.any(g) for g in grads["stage1"]["rest"]["conv2"]["kernel"])


def test_bfloat16_stays_finite_and_near():
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    out, changed = run(initialised(), images(), config=config)
    expected, stats = run(initialised(), images())
    assert out.dtype == jnp.float32
    assert np.linalg.norm(out - expected) < 0.02 * np.linalg.norm(expected)
    for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(stats), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.01, rtol=0.02)
    _, grads = gradient(initialised(), images(), config=config)
    for grad in jax.tree.leaves(grads):
        assert grad.dtype == jnp.float32 and np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["resnet-152", "resnet-tiny"])
def test_every_variable_has_a_sharding_and_real_kernels_are_cut(name):
    model = ResNet(IMAGE_PRESETS[name])
    boxed = jax.eval_shape(model.init, jax.random.key(0), images(1, 64))
    assert "fsdp" in LOGICAL_RULES.values()
    leaves = jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    for path, leaf in leaves:
        spec = partition_spec(leaf.names)
        assert len(spec) == leaf.value.ndim
        kernel = path[-1].key == "kernel"
        assert ("fsdp" in spec) == kernel


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet-18", 11_176_512), ("resnet-50", 23_508_032), ("resnet-152", 58_143_808)],
)
def test_presets_have_the_published_number_of_parameters(name, count):
    model = ResNet(IMAGE_PRESETS[name])
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images(1, 64)))
    assert sum(np.prod(p.shape) for p in jax.tree.leaves(shapes["params"])) == count


def test_kernels_start_with_the_variance_of_their_fan_out():
    model = ResNet(dataclasses.replace(SMALL, depths=(1,), widths=(256,)))
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), images(1)))["params"]
    kernel = params["stage1"]["first"]["conv2"]["kernel"]  # [3, 3, 64, 64]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


def test_the_last_scale_of_each_block_can_start_at_zero():
    config = dataclasses.replace(SMALL, zero_last_scale=True)
    params = nn.unbox(jax.jit(ResNet(config).init)(jax.random.key(0), images(1)))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "scale":
            assert np.all(leaf == (0 if path[-3].key == "conv3" else 1)), path


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 16, 16), r"\(2, 3, 16, 16\); \[batch, height, width, 3\]"),
        ((16, 16, 3), r"\(16, 16, 3\); \[batch, height, width, 3\]"),
        ((2, 16, 1, 3), "images of 16 x 1 pixels: this network needs at least 2 pixels"),
    ],
)
def test_images_of_another_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        ResNet(SMALL).apply(initialised(), np.zeros(shape, np.float32))


def test_raw_pixels_and_a_mask_of_another_length_are_refused():
    with pytest.raises(ValueError, match="images are uint8; normalised values"):
        ResNet(SMALL).apply(initialised(), np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"present has shape \(3,\), but there are 2 images"):
        ResNet(SMALL).apply(initialised(), images(2), False, np.ones(3, bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "wide"}, "block='wide'"),
        ({"batch_norm": "off"}, "batch_norm='off'"),
        ({"remat": "some"}, "remat='some'"),
        ({"depths": (1, 1)}, "one of each per stage"),
        ({"widths": (10,)}, "must divide by 4"),
        ({"depths": (0,)}, "at least 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
