"""The optimiser: schedules against closed forms, updates against optax' own and a hand's."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.config import build, to_dict
from mmjax.errors import UserError
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.presets import IMAGE_PRESETS, bert
from mmjax.models.transformer import Transformer
from mmjax.optim.build import OptimOptions, build_optimizer, build_schedule, in_steps
from mmjax.options import new_config
from mmjax.parallel import rules
from mmjax.train_state import abstract_params

LAYERS = 3


def rates(total: int, **options) -> np.ndarray:
    schedule = build_schedule(OptimOptions(learning_rate=2.0, **options), total)
    return np.array([schedule(jnp.int32(i)) for i in range(total + 3)])


def test_constant():
    np.testing.assert_allclose(rates(5, schedule="constant"), 2.0)


def test_linear_falls_to_zero_when_the_run_is_over():
    found = rates(10, schedule="linear")
    np.testing.assert_allclose(found[:11], 2.0 * (1 - np.arange(11) / 10), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found[10:], 0)


def test_cosine_falls_to_zero_when_the_run_is_over():
    found = rates(10, schedule="cosine")
    want = 1 + np.cos(np.pi * np.arange(11) / 10)
    np.testing.assert_allclose(found[:11], want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[10:], 0, atol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_fall_ends_where_it_is_told(schedule):
    found, whole = rates(10, schedule=schedule, end_factor=0.25), rates(10, schedule=schedule)
    np.testing.assert_allclose(found, 0.25 * 2.0 + 0.75 * whole, rtol=1e-6)
    np.testing.assert_allclose(found[10:], 0.5, rtol=1e-6)


def test_the_other_schedules_do_not_fall_below_the_end_factor():
    options = {"decay_rate": 0.5, "decay_steps": 2, "end_factor": 0.2}
    found = rates(8, schedule="staircase", **options)
    np.testing.assert_allclose(found[:9], 2.0 * np.array([1, 1, 0.5, 0.5, 0.25, 0.25] + [0.2] * 3))
    found = rates(200, schedule="rsqrt", **options)
    np.testing.assert_allclose(found[199:], 2.0 * 0.2)


@pytest.mark.parametrize("warmup", [None, 10_000])
def test_the_root_schedule_is_t5s(warmup):
    """Raffel et al. 2020, section 3.1.2: 1 / sqrt(max(n, 10^4)); with Vaswani's warm-up too."""
    options = OptimOptions(
        learning_rate=0.01, schedule="rsqrt", decay_steps=10_000, warmup_steps=warmup
    )
    schedule = build_schedule(options, 2**19)
    for n in (0, 1, 9_999, 10_000, 10_001, 40_000, 500_000):
        rise = 1.0 if warmup is None else min(1.0, (n + 1) / warmup)
        want = rise / np.sqrt(max(n, 10_000))
        np.testing.assert_allclose(schedule(jnp.int32(n)), want, rtol=1e-5)


def test_the_staircase_is_the_papers():
    """PhotoChat, section 5.3: 5e-5, decayed by 0.999 every 1,000 steps."""
    schedule = build_schedule(OptimOptions(learning_rate=5e-5, schedule="staircase"), 10**6)
    for step in (0, 999, 1000, 1999, 2000, 123_456):
        want = 5e-5 * 0.999 ** (step // 1000)
        np.testing.assert_allclose(schedule(jnp.int32(step)), want, rtol=1e-5)


@pytest.mark.parametrize("given", [{"decay_epochs": 15.0}, {"decay_examples": 15 * 640}], ids=str)
def test_the_staircase_of_vse_and_scan_falls_after_so_many_epochs(given):
    """640 examples in batches of 128: 5 steps are an epoch."""
    options = OptimOptions(learning_rate=2e-4, schedule="staircase", decay_rate=0.1, **given)
    schedule = build_schedule(in_steps(options, batch_size=128, examples_per_epoch=640), 150)
    found = [float(schedule(jnp.int32(step))) for step in (0, 74, 75, 149, 150)]
    np.testing.assert_allclose(found, [2e-4, 2e-4, 2e-5, 2e-5, 2e-6], rtol=1e-5)


def test_a_decay_is_given_once_and_made_steps_before_it_is_used():
    options = OptimOptions(schedule="staircase", decay_epochs=1.0)
    with pytest.raises(ValueError, match="in_steps"):
        build_schedule(options, 10)
    both = dataclasses.replace(options, decay_steps=10)
    with pytest.raises(UserError, match=r"decay_steps and config\.optim\.decay_epochs"):
        in_steps(both, batch_size=1, examples_per_epoch=1)


@pytest.mark.parametrize("given", [{"warmup_steps": 4}, {"warmup_fraction": 0.2}], ids=str)
def test_a_warm_up_rises_from_the_first_update_and_the_rest_falls(given):
    found = rates(20, schedule="linear", **given)
    np.testing.assert_allclose(found[:4], 2.0 * np.arange(1, 5) / 4, rtol=1e-6)
    falling = 2.0 * (1 - np.arange(17) / 16)
    np.testing.assert_allclose(found[4:21], falling, rtol=1e-6, atol=1e-7)


def test_a_run_that_is_all_warm_up_reaches_the_top():
    np.testing.assert_allclose(rates(4, warmup_steps=4)[:4], [0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    ("options", "total", "message"),
    [
        ({"warmup_steps": 5, "warmup_fraction": 0.1}, 100, "are both set: give one"),
        ({"warmup_steps": 11}, 10, "warmup_steps=11 does not fit a run of 10 steps"),
    ],
)
def test_a_warm_up_that_makes_no_sense_is_named(options, total, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(OptimOptions(**options), total, trees(0))


def test_a_run_of_no_steps_only_scores_whatever_its_warm_up():
    build_optimizer(OptimOptions(warmup_steps=10), 0, trees(0))


def test_a_broken_expression_is_named():
    with pytest.raises(UserError, match=r"no_decay='\(bias' is no regular expression"):
        build_optimizer(OptimOptions(no_decay="(bias"), 10, trees(0))


def trees(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(LAYERS, 4, 5)), jnp.float32)},
        "head": {
            "kernel": jnp.asarray(rng.normal(size=(5, 2)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=2), jnp.float32),
        },
        "norm": {"scale": jnp.asarray(rng.normal(size=5), jnp.float32)},
    }


def run(tx, steps=6) -> dict:
    params = trees(0)
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(trees(i + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def agree(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)


def test_adamw_is_optax_adamw_with_the_mask_of_matrices():
    options = OptimOptions(learning_rate=0.1, weight_decay=0.3, schedule="linear", clip_norm=None)
    decayed = jax.tree.map(lambda x: x.ndim > 1, trees(0))
    reference = optax.adamw(
        optax.linear_schedule(0.1, 0.0, 6), eps=1e-8, weight_decay=0.3, mask=decayed
    )
    agree(run(build_optimizer(options, 6, trees(0))), run(reference))


def test_adamw_is_the_papers_algorithm():
    """Loshchilov and Hutter, 2019, algorithm 2, in float64 numpy."""
    options = OptimOptions(
        learning_rate=0.1, weight_decay=0.3, schedule="constant", clip_norm=1.0, b1=0.8, b2=0.9
    )

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(0))
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    for t in range(1, 7):
        grads = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(t))
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, n=norm: g * min(1.0, 1.0 / n), grads)
        first = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g**2, second, grads)

        def update(p, m, v, t=t):
            step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
            return p - 0.1 * (step + (0.3 * p if p.ndim > 1 else 0))

        params = jax.tree.map(update, params, first, second)
    agree(run(build_optimizer(options, 6, trees(0))), params)


def test_adam_and_sgd_do_not_decay():
    common = {"learning_rate": 0.1, "schedule": "constant", "clip_norm": None, "weight_decay": 0.5}
    agree(run(build_optimizer(OptimOptions("adam", **common), 6, trees(0))), run(optax.adam(0.1)))
    agree(run(build_optimizer(OptimOptions("sgd", **common), 6, trees(0))), run(optax.sgd(0.1)))


def test_adam_without_bias_correction_is_berts_own():
    """AdamWeightDecayOptimizer of the BERT paper's code, by hand in float64."""
    options = OptimOptions(
        learning_rate=0.1, weight_decay=0.3, schedule="constant", clip_norm=None,
        b1=0.8, b2=0.9, eps=1e-6, bias_correction=False,
    )  # fmt: skip
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(0))
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    for t in range(1, 7):
        grads = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(t))
        first = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g**2, second, grads)
        params = jax.tree.map(
            lambda p, m, v: p - 0.1 * (m / (np.sqrt(v) + 1e-6) + (0.3 * p if p.ndim > 1 else 0)),
            params, first, second,
        )  # fmt: skip
    agree(run(build_optimizer(options, 6, trees(0))), params)


def test_lion_is_the_papers_algorithm():
    """Chen et al. 2023, algorithm 2."""
    options = OptimOptions(
        "lion", learning_rate=0.1, weight_decay=0.3, schedule="constant", clip_norm=None, b2=0.99
    )
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(0))
    moment = jax.tree.map(np.zeros_like, params)
    for t in range(1, 7):
        grads = jax.tree.map(lambda x: np.asarray(x, np.float64), trees(t))
        params = jax.tree.map(
            lambda p, m, g: (
                p - 0.1 * (np.sign(0.9 * m + 0.1 * g) + (0.3 * p if p.ndim > 1 else 0))
            ),
            params, moment, grads,
        )  # fmt: skip
        moment = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g, moment, grads)
    agree(run(build_optimizer(options, 6, trees(0))), params)


@pytest.mark.parametrize(
    ("name", "options"), [("adamw", {}), ("adam", {"bias_correction": False}), ("lion", {})]
)
def test_the_first_moment_takes_half_the_memory_and_little_harm(name, options):
    common = {"learning_rate": 0.1, "schedule": "constant", "clip_norm": None, **options}
    tx = build_optimizer(OptimOptions(name, mu_dtype="bfloat16", **common), 6, trees(0))
    _, state = tx.update(trees(1), tx.init(trees(0)), trees(0))
    for made in (tx.init(trees(0)), state):
        dtypes = {x.dtype for x in jax.tree.leaves(optax.tree.get(made, "mu"))}
        assert dtypes == {jnp.dtype(jnp.bfloat16)}
        if name != "lion":
            dtypes = {x.dtype for x in jax.tree.leaves(optax.tree.get(made, "nu"))}
            assert dtypes == {jnp.dtype(jnp.float32)}
    exact = run(build_optimizer(OptimOptions(name, **common), 6, trees(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), run(tx), exact)


@pytest.mark.parametrize(("clip", "factor"), [(None, 1.0), (1e6, 1.0), (0.5, None)])
def test_only_gradients_above_the_norm_are_scaled_down_to_it(clip, factor):
    tx = build_optimizer(
        OptimOptions("sgd", learning_rate=1.0, schedule="constant", clip_norm=clip), 6, trees(0)
    )
    grads = trees(1)
    updates, _ = tx.update(grads, tx.init(trees(0)), trees(0))
    factor = 0.5 / float(optax.tree.norm(grads)) if factor is None else factor
    agree(updates, jax.tree.map(lambda g: -factor * g, grads))


def test_decay_hits_matrices_and_tables_of_the_real_model_and_nothing_else():
    """Stacked layers too, whose biases are matrices; and whether or not axes carry names."""
    module = Transformer(bert(layers=LAYERS, width=16, heads=2, feed_forward=32, vocab_size=50))
    ids = jnp.zeros((1, 4), jnp.int32)
    named = jax.eval_shape(module.init, jax.random.key(0), ids, ids == 0)["params"]
    named = jax.tree.map(lambda x: jnp.ones(x.shape), named)
    plain = rules.unbox(named)  # the names are boxes around the arrays
    options = OptimOptions(learning_rate=1.0, schedule="constant", clip_norm=None)
    for params in (named, plain):
        tx = build_optimizer(options, 10, params)
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, _ = tx.update(zero, tx.init(params), params)
        leaves = jax.tree_util.tree_leaves_with_path(rules.unbox(updates))
        keystr = jax.tree_util.keystr
        moved = {keystr(p, simple=True, separator="/"): bool(x.any()) for p, x in leaves}
        assert moved == {name: name.endswith(("kernel", "embedding")) for name in moved}
        assert sum(moved.values()) == 3 + 6 and len(moved) == 3 + 2 + 6 * 2 + 2 * 2
    assert plain["layers"]["feed_forward"]["up"]["bias"].ndim == 2


TEXT = bert(layers=LAYERS, width=16, heads=2, feed_forward=32, vocab_size=50)
LABELS = dataclasses.replace(TEXT, layers=2)


@pytest.fixture(scope="module")
def dual_encoder():
    """Two texts of different depth and pixels: shapes, and the names of axes."""
    image = dataclasses.replace(IMAGE_PRESETS["resnet-tiny"], depths=(3, 1, 1, 1))
    module = DualEncoder(DualEncoderConfig(TEXT, LABELS, image, learn_scale=True))
    side = {"ids": np.zeros((2, 4), np.int32), "mask": np.ones((2, 4), bool)}
    batch = {"query": side, "photo": side, "image": np.zeros((2, 64, 64, 3), np.uint8)}
    return abstract_params(module, batch | {"has_image": np.ones(2, bool)})


def learned_rates(params, **options) -> dict[str, np.ndarray]:
    """How far gradients of 1 move each layer of each parameter at a learning rate of 1."""
    options = {"name": "sgd", "learning_rate": 1.0, "schedule": "constant", "clip_norm": None} | (
        options
    )
    tx = build_optimizer(OptimOptions(**options), 10, params)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), rules.unbox(params))
    updates, _ = tx.update(ones, tx.init(ones), ones)
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(updates):
        x = -np.asarray(x)
        flat = x.reshape(x.shape[0], -1) if x.ndim else x.reshape(1, 1)
        assert (flat == flat[:, :1]).all()
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = flat[:, 0]
    return found


def test_layers_learn_the_slower_the_deeper_they_lie(dual_encoder):
    """Each tower by its own depth; the ResNet, which scans blocks within a stage, as a whole."""
    found = learned_rates(dual_encoder, layer_decay=0.5)
    stacked = {"query_tower": [0.125, 0.25, 0.5], "label_tower": [0.25, 0.5]}
    seen = set()
    for path, rate in found.items():
        tower, part = path.split("/")[0], path.split("/")[1] if "/" in path else ""
        if part == "layers":
            want = stacked[tower]
        elif part == "embeddings":
            want = stacked[tower][0] / 2
        else:
            want = 1.0
        seen.add((tower, part))
        np.testing.assert_allclose(rate, want, err_msg=path)
    assert {("query_tower", "layers"), ("label_tower", "embeddings")} <= seen
    assert {("image_tower", "stage1"), ("photo_head", "kernel"), ("log_scale", "")} <= seen
    assert found["image_tower/stage1/rest/conv1/kernel"].shape == (2,)


def test_decay_of_weights_follows_the_learning_rate_of_the_layer():
    """As with one optimiser per layer: the factor is of the whole step."""
    options = {"name": "adamw", "weight_decay": 0.5, "layer_decay": 0.5, "no_decay": "$^"}
    params = {"layers": {"kernel": boxed((LAYERS, 4, 5), ("layers", "embed", "mlp"))}}
    zero = jax.tree.map(jnp.zeros_like, rules.unbox(params))
    ones = jax.tree.map(jnp.ones_like, zero)
    tx = build_optimizer(
        OptimOptions(learning_rate=1.0, schedule="constant", **options), 10, params
    )
    updates, _ = tx.update(zero, tx.init(ones), ones)
    np.testing.assert_allclose(
        updates["layers"]["kernel"][:, 0, 0], -0.5 * np.array([0.125, 0.25, 0.5])
    )


def boxed(shape, names):
    return nn.LogicallyPartitioned(jnp.ones(shape), names)


def test_embeddings_below_two_stacks_lie_below_the_deeper_one():
    """As of an encoder-decoder; and a stack's own last norm is above it."""
    params = {
        "embeddings": {"word": {"embedding": boxed((7, 4), ("vocab", "embed"))}},
        "encoder": {
            "layers": {"kernel": boxed((2, 4, 5), ("layers", "embed", "mlp"))},
            "relative": {"embedding": boxed((8, 2), (None, "heads"))},
            "norm": {"scale": boxed((4,), ("embed",))},
        },
        "decoder": {"layers": {"kernel": boxed((3, 4, 5), ("layers", "embed", "mlp"))}},
        "head": {"embedding": boxed((7, 4), ("vocab", "embed"))},
    }
    found = learned_rates(params, layer_decay=0.5)
    np.testing.assert_allclose(found["embeddings/word/embedding"], 0.5**4)
    np.testing.assert_allclose(found["encoder/relative/embedding"], 0.5**3)
    np.testing.assert_allclose(found["encoder/norm/scale"], 1.0)
    np.testing.assert_allclose(found["head/embedding"], 1.0)
    np.testing.assert_allclose(found["decoder/layers/kernel"], [0.125, 0.25, 0.5])


def test_the_first_pattern_that_matches_sets_the_rate(dual_encoder):
    found = learned_rates(
        dual_encoder,
        rate_factors=(r"query_tower/.*/query/kernel=0", "query_tower=0.25", "(query|photo)_head=4"),
        layer_decay=0.5,
    )
    attention = "query_tower/layers/attention"
    np.testing.assert_array_equal(found[f"{attention}/query/kernel"], np.zeros(LAYERS))
    np.testing.assert_allclose(found[f"{attention}/key/kernel"], [1 / 32, 1 / 16, 1 / 8])
    np.testing.assert_allclose(found["query_head/bias"], 4.0)
    np.testing.assert_allclose(found["image_tower/stem/kernel"], 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_factors": ("image_towr=0.1",)}, "'image_towr' matches no parameter; .*kernel"),
        ({"rate_factors": ("head",)}, "'head' is not of the form \"EXPRESSION=FACTOR\""),
        ({"rate_factors": ("head=fast",)}, "is not of the form"),
        ({"rate_factors": ("head=-1",)}, "with a factor of at least 0"),
        ({"rate_factors": ("head=nan",)}, "is not of the form"),
        ({"rate_factors": ("=0.5",)}, "is not of the form"),
        ({"rate_factors": ("(head=0.5",)}, r"rate_factors='\(head' is no regular expression"),
        ({"layer_decay": 0.9}, "layer_decay acts along stacked layers, and this model has none"),
    ],
    ids=str,
)
def test_factors_that_make_no_sense_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(OptimOptions(**options), 10, trees(0))


def test_the_command_line_gives_patterns_as_they_are():
    """A tuple of texts takes one flag per pattern, and comes through JSON."""
    config = new_config(label="", system="network", task_name="x", optim=OptimOptions())
    config.optim.rate_factors = ("(bias|scale)$=0.1", "head=2")
    values = to_dict(config)["optim"]
    assert build(OptimOptions, values, "optim").rate_factors == ("(bias|scale)$=0.1", "head=2")
