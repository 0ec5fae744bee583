"""What the EfficientNet, its parts and its folders promise whatever weights they hold."""

from __future__ import annotations

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.retrieval import get_config
from mmjax.data.images import ImageOptions
from mmjax.errors import UserError
from mmjax.models.convolution import convolve, convolve_depthwise, depthwise_by_groups
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.efficientnet import EfficientNet, EfficientNetConfig, Stage
from mmjax.models.presets import IMAGE_PRESETS, PRESETS
from mmjax.parallel.rules import partition_spec
from mmjax.pretrained import export_image_tower, image_config, load_folder, load_image_tower
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask
from mmjax.tasks.towers import image_tower

# Three blocks, of which two are residual.
SMALL = EfficientNetConfig(
    width_coefficient=0.25,
    stages=(Stage(3, 3, 2, 2, 32),),
    drop_connect=0.0,
    batch_norm_group=2,
)
TWO_STAGES = dataclasses.replace(SMALL, stages=(Stage(3, 3, 1, 1, 32), Stage(1, 3, 2, 2, 64)))


# Its convolutions


def by_groups(x, kernel, stride, padding):
    """What other machines than CPUs compute."""
    return depthwise_by_groups(x, kernel, stride, padding or (kernel.shape[0] // 2,) * 2)


@pytest.mark.parametrize("function", [convolve, convolve_depthwise, by_groups])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride", "padding"),
    [(9, 8, 3, 1, None), (9, 8, 3, 2, (0, 1)), (12, 11, 5, 2, (1, 2)), (3, 4, 5, 2, (1, 2)),
     (9, 8, 5, 2, None)],
)  # fmt: skip
def test_convolutions_and_their_gradients_are_the_sums_that_define_them(
    function, height, width, size, stride, padding
):
    depthwise = function is not convolve
    rng = np.random.default_rng(0)
    before, after = padding or (size // 2, size // 2)
    h, w = ((n + before + after - size) // stride + 1 for n in (height, width))
    outs = 3 if depthwise else 4
    x, dy = rng.normal(size=(2, height, width, 3)), rng.normal(size=(2, h, w, outs))
    kernel = rng.normal(size=(size, size, 3, outs))
    if depthwise:
        kernel *= np.eye(3)
    out, dx, dk = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j, a, b in np.ndindex(h, w, size, size):
        row, column = stride * i + a - before, stride * j + b - before
        if 0 <= row < height and 0 <= column < width:
            out[:, i, j] += x[:, row, column] @ kernel[a, b]
            dx[:, row, column] += dy[:, i, j] @ kernel[a, b].T
            dk[a, b] += x[:, row, column].T @ dy[:, i, j]
    if depthwise:
        kernel, dk = kernel.sum(axis=3), np.einsum("abcc->abc", dk)
    x, kernel, dy = (a.astype(np.float32) for a in (x, kernel, dy))
    actual, back = jax.vjp(lambda x, k: function(x, k, stride, padding), x, kernel)
    for ours, exact in zip((actual, *back(dy)), (out, dx, dk), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-4)


def test_a_depthwise_convolution_sums_in_float32_and_keeps_the_dtype():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 9, 9, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(5, 5, 4)), jnp.float32)
    out, back = jax.vjp(convolve_depthwise, x, kernel)
    dx, dk = back(out)
    wide = x.astype(jnp.float32)
    exact, back = jax.vjp(convolve_depthwise, wide, kernel)
    dx_exact, dk_exact = back(out.astype(jnp.float32))
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))
    np.testing.assert_array_equal(dx, dx_exact.astype(jnp.bfloat16))
    np.testing.assert_allclose(dk, dk_exact, rtol=1e-5, atol=1e-4)


# The network


def images(batch: int = 6, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


@functools.cache
def initialised():
    """Variables of SMALL, its running statistics no longer those of the start."""
    variables = nn.unbox(jax.jit(EfficientNet(SMALL).init)(jax.random.key(0), images()))
    _, changed = run(variables, images(seed=1))
    return {**variables, **changed}


@functools.partial(jax.jit, static_argnames=("config", "train"))
def run(variables, x, present=None, seed=0, *, config=SMALL, train=True):
    rngs = {"dropout": jax.random.key(seed)} if config.drop_connect else {}
    return EfficientNet(config).apply(
        variables, x, train, present, mutable=["batch_stats"], rngs=rngs
    )


@functools.partial(jax.jit, static_argnames="config")
def gradient(variables, x, present=None, *, config=SMALL):
    def loss(params):
        out, changed = run({**variables, "params": params}, x, present, config=config)
        return jnp.sum(jnp.sin(out)), (out, changed)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def assert_trees_close(actual, expected, atol=1e-4):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("name", "parameters", "width", "symmetric"),
    [  # without the head for ImageNet's classes; padding as in the published conversion
        ("b0", 5_288_548 - 1281 * 1000, 1280, ()),
        ("b1", 7_794_184 - 1281 * 1000, 1280, (16,)),
        ("b2", 9_109_994 - 1409 * 1000, 1408, (5, 8, 16)),
        ("b3", 12_233_232 - 1537 * 1000, 1536, (5, 18)),
        ("b4", 19_341_616 - 1793 * 1000, 1792, (6,)),
    ],
)
def test_presets_have_the_published_sizes(name, parameters, width, symmetric):
    config = IMAGE_PRESETS[f"efficientnet-{name}"]
    shapes = jax.eval_shape(EfficientNet(config).init, jax.random.key(0), images(1, 64))
    sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(shapes)["params"])]
    assert (sum(sizes), config.width, config.symmetric) == (parameters, width, symmetric)
    assert config.min_size == 32


def test_rows_without_an_image_touch_nothing():
    present = np.array([False, True, False, True, False, False])
    x = images()
    expected = gradient(initialised(), x, present)
    x[~present] = np.nan
    actual = gradient(initialised(), x, present)
    assert_trees_close(actual, expected)
    _, (out, changed) = actual[0]
    assert not out[~present].any()
    assert_trees_close((out[present], changed), run(initialised(), x[present]))


def test_groups_are_batches_of_their_own():
    config = dataclasses.replace(SMALL, batch_norm="groups")
    out, changed = run(initialised(), images(), config=config)
    parts = [run(initialised(), images()[i : i + 2]) for i in (0, 2, 4)]
    np.testing.assert_allclose(out, np.concatenate([part[0] for part in parts]), atol=1e-4)
    mean = jax.tree.map(lambda *stats: np.mean(stats, axis=0), *[part[1] for part in parts])
    assert_trees_close(changed, mean)


def test_frozen_statistics_stay_while_every_parameter_learns():
    config = dataclasses.replace(SMALL, batch_norm="frozen")
    (_, (out, changed)), grads = gradient(initialised(), images(), config=config)
    jax.tree.map(
        np.testing.assert_array_equal, changed["batch_stats"], initialised()["batch_stats"]
    )
    np.testing.assert_allclose(out, run(initialised(), images(), train=False)[0], atol=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.any(leaf), jax.tree_util.keystr(path)


def test_storing_less_leaves_values_gradients_and_statistics_alone():
    config = dataclasses.replace(SMALL, drop_connect=0.5)
    thrifty = dataclasses.replace(config, remat="dots")
    actual = gradient(initialised(), images(), config=thrifty)
    assert_trees_close(actual, gradient(initialised(), images(), config=config))


def test_bfloat16_stays_near_and_gives_float32():
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    out, _ = run(initialised(), images(), config=config)
    expected, _ = run(initialised(), images())
    assert out.dtype == jnp.float32
    assert np.linalg.norm(out - expected) < 0.03 * np.linalg.norm(expected)


def test_training_skips_residual_blocks_row_by_row_at_a_rate_that_grows():
    rates = [0.3, 0.6]  # of blocks 1 and 2 of 3
    config = dataclasses.replace(SMALL, drop_connect=0.9, batch_norm="frozen")
    variables, rows = initialised(), 2000
    seen, _ = run(variables, np.repeat(images(1, 4), rows, axis=0), config=config)

    def with_branches(factors):
        """The features when each residual branch is scaled by its factor."""

        def scaled(path, leaf):
            last = "stage1_rest" in str(path) and "project" in str(path) and "norm" in str(path)
            return leaf * np.asarray(factors, np.float32)[:, None] if last else leaf

        params = jax.tree_util.tree_map_with_path(scaled, variables["params"])
        with_params = {**variables, "params": params}
        return run(with_params, images(1, 4), config=config, train=False)[0][0]

    shares = 0
    for first in (False, True):
        for second in (False, True):
            kept = [k / (1 - rate) for k, rate in zip((first, second), rates, strict=True)]
            alike = np.isclose(seen, with_branches(kept), rtol=1e-4, atol=1e-4).all(axis=1)
            likely = (0.7 if first else 0.3) * (0.4 if second else 0.6)
            assert abs(alike.mean() - likely) < 4 * np.sqrt(likely * (1 - likely) / rows)
            shares += alike.mean()
    assert shares == 1
    again, _ = run(variables, np.repeat(images(1, 4), rows, axis=0), seed=1, config=config)
    assert not np.allclose(seen, again)


def test_every_variable_has_a_logical_name_per_axis():
    boxed = jax.eval_shape(EfficientNet(SMALL).init, jax.random.key(0), images(1, 64))
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    ):
        assert isinstance(leaf, nn.LogicallyPartitioned), path
        assert len(partition_spec(leaf.names)) == leaf.value.ndim


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "stages must not be empty"),
        ({"drop_connect": 1.0}, "drop_connect=1.0 is not from 0 to below 1"),
        ({"depth_coefficient": 0.0}, "must be above 0"),
        ({"batch_norm": "off"}, "batch_norm='off'"),
        ({"batch_norm_epsilon": 0.0}, "batch_norm_epsilon=0.0 must be above 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="16 x 31 pixels: this network needs at least 32"):
        b0 = EfficientNet(IMAGE_PRESETS["efficientnet-b0"])
        jax.eval_shape(b0.init, jax.random.key(0), np.zeros((1, 16, 31, 3), np.float32))


# As the image tower of retrieval


def test_a_dual_encoder_learns_through_it():
    options = {"batch_norm": "frozen", "dtype": "bfloat16", "remat": "dots"}
    tower = image_tower("image", "efficientnet-b0", None, **options)
    assert isinstance(tower, EfficientNetConfig) and tower.remat == "dots"
    model = DualEncoder(DualEncoderConfig(PRESETS["bert-tiny"], image=tower, joint_dim=8))
    text = {"ids": np.zeros((2, 4), np.int32), "mask": np.ones((2, 4), bool)}
    batch = {
        "query": text,
        "image": np.zeros((2, 64, 64, 3), np.uint8),
        "has_image": np.ones(2, bool),
        "mirror": np.zeros(2, bool),
    }
    key = jax.random.key(0)
    variables = nn.unbox(jax.eval_shape(lambda: model.init(key, batch, train=False)))

    def loss(params, variables):
        both = {**variables, "params": params}
        rngs = {"dropout": key}
        out, _ = model.apply(both, batch, train=True, rngs=rngs, mutable=["batch_stats"])
        return jnp.sum(out["photo"])

    grads = jax.eval_shape(jax.grad(loss), variables["params"], variables)
    assert "squeeze_excite" in grads["image_tower"]["stage1_first"]
    assert variables["batch_stats"]["image_tower"]["stage3_rest"]["expand"]


def test_the_retrieval_config_takes_it():
    config = get_config("model=de_img,image=efficientnet-b3")
    assert config.model.image == "efficientnet-b3"
    assert config.label == "DE_img (efficientnet-b3), CE"


# Its folders


def abstract(config):
    shapes = jax.eval_shape(EfficientNet(config).init, jax.random.key(0), images(1, 64))
    return nn.unbox(shapes)


def written(folder, config=TWO_STAGES) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), abstract(config)
    )
    export_image_tower(config, variables, folder)
    return SimpleNamespace(path=folder, variables=variables)


def load(path, config=None):
    folder = load_folder(path)
    config = config or image_config(folder)
    return load_image_tower(folder, config, abstract(config))


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    expected = written(tmp_path).variables
    described = image_config(load_folder(tmp_path))
    assert dataclasses.replace(described, batch_norm_group=2) == TWO_STAGES
    variables, report = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert not report.initialised and not report.left_over


def test_retrieval_starts_from_a_folder(tmp_path):
    expected = written(tmp_path).variables
    options = RetrievalOptions(candidate="pixels", image=ImageOptions(size=16))
    model = ModelOptions(text="bert-tiny", image="weights", image_weights=str(tmp_path))
    task = RetrievalTask(options, model)
    task._tokenizer = SimpleNamespace(vocab_size=300)
    shapes = {k: {"image_tower": v} for k, v in abstract(TWO_STAGES).items()}
    found, reports = task.initial_variables(shapes)
    for name, tree in expected.items():
        jax.tree.map(np.testing.assert_array_equal, found[name]["image_tower"], tree)
    assert not reports["image_tower"].initialised


def test_a_presets_name_takes_a_folder_of_its_kind_alone(tmp_path):
    folder = load_folder(written(tmp_path).path)
    assert image_tower("image", "weights", folder).stages == TWO_STAGES.stages
    for preset in ("efficientnet-b0", "resnet-18"):
        with pytest.raises(UserError, match=f"of another network than the preset '{preset}'"):
            image_tower("image", preset, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "model_type is 'vit'; supported as a network of images: resnet"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; supported: 'swish'"),
        ({"pooling_type": "max"}, "pooling_type is 'max'; supported: 'mean'"),
        ({"strides": [1]}, "strides, expand_ratios, out_channels differ in length"),
        ({"strides": [1, 3]}, "strides has 3, where a whole number from 1 to 2"),
        ({"kernel_sizes": [3, 4]}, "the kernel must be 3, 5"),
        ({"in_channels": [32, 16]}, r"in_channels is \[32, 16\], but the other sizes give"),
        ({"hidden_dim": 1280}, "hidden_dim is 1280, but the other sizes give 320"),
        ({"depth_coefficient": 1e9}, "depth_coefficient is 1000000000.0, where a number from 0 to"),
        ({"depth_coefficient": 60, "num_block_repeats": [9, 9]}, "the number of blocks has 1080"),
        ({"num_block_repeats": [3, 10**9]}, "num_block_repeats has 1000000000"),
        ({"expand_ratios": [1, 0]}, "expand_ratios has 0"),
        ({"depthwise_padding": "all"}, "depthwise_padding is 'all'"),
        ({"batch_norm_eps": "small"}, "batch_norm_eps is 'small', where a number"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(change, message, tmp_path):
    file = written(tmp_path).path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        image_config(load_folder(tmp_path))


@pytest.mark.parametrize("key", ["strides", "width_coefficient", "in_channels", "batch_norm_eps"])
def test_a_missing_config_key_is_named(key, tmp_path):
    file = written(tmp_path).path / "config.json"
    config = json.loads(file.read_text())
    del config[key]
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"no key '{key}'"):
        image_config(load_folder(tmp_path))


def test_more_blocks_than_the_model_has_are_refused(tmp_path):
    deeper = dataclasses.replace(TWO_STAGES, stages=(TWO_STAGES.stages[0], Stage(2, 3, 2, 2, 64)))
    with pytest.raises(UserError, match=r"blocks that the model lacks: encoder\.blocks\.4"):
        load(written(tmp_path, deeper).path, TWO_STAGES)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((Stage(3, 3, 1, 1, 32),), "top_conv.weight has shape .* needs .320, 8"),
        ((*TWO_STAGES.stages, Stage(1, 3, 1, 1, 64)), "lacks batch_stats/stage3_first/depthwise"),
        ((Stage(2, 3, 1, 1, 32), Stage(2, 3, 2, 2, 64)), "encoder.blocks.2.depthwise.* has shape"),
    ],
)
def test_another_network_than_the_folders_is_refused(stages, message, tmp_path):
    config = dataclasses.replace(TWO_STAGES, stages=stages)
    with pytest.raises(UserError, match=message):
        load(written(tmp_path).path, config)
