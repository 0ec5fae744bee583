"""What the transformer promises whatever weights it holds."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.models.activations import gelu
from mmjax.models.attention import attend
from mmjax.models.layers import Dropout, keep_mask, project, standardize
from mmjax.models.presets import bert
from mmjax.models.stack import REMAT_POLICIES
from mmjax.models.transformer import Transformer
from mmjax.parallel.rules import LOGICAL_RULES, partition_spec

SMALL = bert(
    layers=2, width=32, heads=4, feed_forward=48, vocab_size=50, max_positions=16, dropout=0.2
)


def inputs(batch: int = 3, length: int = 10, seed: int = 0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 50, (batch, length)).astype(np.int32)
    lengths = np.linspace(length, 1, batch).astype(int)
    return ids, np.arange(length) < lengths[:, None]


@functools.cache
def initialised(scale: float = 5.0):
    """Parameters of SMALL, large enough that every part matters in the output."""
    params = nn.unbox(jax.jit(Transformer(SMALL).init)(jax.random.key(0), *inputs()))["params"]
    return jax.tree.map(lambda p: p * scale, params)


@functools.partial(jax.jit, static_argnames=("config", "train"))
def run(params, ids, mask, segments=None, positions=None, *, seed=0, config=SMALL, train=False):
    rngs = {"dropout": jax.random.key(seed)}
    return Transformer(config).apply(
        {"params": params}, ids, mask, segments, positions=positions, train=train, rngs=rngs
    )


@functools.partial(jax.jit, static_argnames="config")
def training_gradient(params, ids, mask, config):
    def loss(params):
        out = run(params, ids, mask, config=config, train=True, seed=3)
        return jnp.sum(jnp.where(mask[..., None], jnp.sin(out), 0))

    return jax.value_and_grad(loss)(params)


@functools.cache
def expected_gradient():
    return training_gradient(initialised(), *inputs(), SMALL)


def test_what_stands_at_padding_never_reaches_a_real_token():
    params = initialised()
    ids, mask = inputs()
    out = run(params, ids, mask)
    other = run(params, np.where(mask, ids, 7), mask)
    np.testing.assert_array_equal(out[mask], other[mask])
    assert not np.array_equal(out, other)


def test_longer_padding_changes_nothing():
    params = initialised()
    ids, mask = inputs()
    out = run(params, ids, mask)
    wider = [np.pad(a, ((0, 0), (0, 6))) for a in (ids, mask)]
    np.testing.assert_allclose(run(params, *wider)[:, :10][mask], out[mask],
                               atol=1e-5)  # fmt: skip


def test_texts_packed_into_one_row_are_as_each_in_its_own():
    params = initialised()
    ids, mask = inputs(batch=3, length=8)
    lengths = mask.sum(axis=1)
    packed = ids[mask][None]
    owner = np.repeat(np.arange(3), lengths)[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    # One text is longer than it might be with positions that count on.
    assert packed.shape[1] < SMALL.position.max_positions
    sees = owner[:, :, None] == owner[:, None, :]
    out = run(params, packed, sees, None, positions.astype(np.int32))
    np.testing.assert_allclose(out[0], run(params, ids, mask)[mask], atol=1e-5)


def test_a_causal_mask_lets_no_token_see_a_later_one():
    params = initialised()
    ids, mask = inputs(batch=2)
    causal = np.tril(np.ones((10, 10), bool))[None] & mask[:, None, :]
    out = run(params, ids, causal)
    later = ids.copy()
    later[:, 4:] = 7
    np.testing.assert_array_equal(out[:, :4], run(params, later, causal)[:, :4])
    assert not np.array_equal(out[:, 4:], run(params, later, causal)[:, 4:])
    np.testing.assert_allclose(
        run(params, ids, np.broadcast_to(mask[:, None], (2, 10, 10)))[mask],
        run(params, ids, mask)[mask],
        atol=1e-6,
    )


def test_a_row_of_nothing_but_padding_gives_finite_values_and_gradients():
    params = initialised()
    ids, mask = inputs()
    mask[1] = False

    def loss(params):
        return jnp.sum(jnp.square(run(params, ids, mask)))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "change", [{"unroll": 2}, *({"remat": name} for name in REMAT_POLICIES if name != "none"),
               {"unroll": 2, "remat": "full"}], ids=str
)  # fmt: skip
def test_loop_and_memory_choices_leave_values_gradients_and_dropout_alone(change):
    config = dataclasses.replace(SMALL, **change)
    actual = training_gradient(initialised(), *inputs(), config)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected_gradient()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_is_computed_again_is_everything_or_the_products_of_two_activations_or_nothing():
    def products(remat):
        config = dataclasses.replace(SMALL, remat=remat)
        trained = jax.make_jaxpr(lambda params: training_gradient(params, *inputs(), config))
        return _count(trained(initialised()).jaxpr)

    none, dots, full = (products(remat) for remat in ("none", "dots", "full"))
    # Scores and weighted values of each layer; with "full" also the six products with weights.
    assert dots - none == 2 * SMALL.layers
    assert full - dots == 6 * SMALL.layers


def _count(jaxpr) -> int:
    """Matrix products, those of a loop as often as it runs."""
    found = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns"))
        inner = [getattr(x, "jaxpr", x) for x in inner]
        found += equation.primitive.name == "dot_general"
        found += times * sum(_count(x) for x in inner if hasattr(x, "eqns"))
    return found


def test_dropout_acts_in_training_only_and_follows_its_key():
    params = initialised()
    ids, mask = inputs()
    dropped = run(params, ids, mask, train=True, seed=1)
    np.testing.assert_array_equal(dropped, run(params, ids, mask, train=True, seed=1))
    assert not np.allclose(dropped, run(params, ids, mask, train=True, seed=2))
    still = run(params, ids, mask)
    np.testing.assert_array_equal(still, run(params, ids, mask, seed=1))
    assert not np.allclose(dropped, still)


def test_every_layer_draws_its_own_dropout():
    zeros = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, Dropout) and context.module.rate > 0:
            jax.debug.callback(lambda x: zeros.append(np.asarray(x) == 0), out, ordered=True)
        return out

    ids, mask = map(jnp.asarray, inputs())
    with nn.intercept_methods(record):
        out = run.__wrapped__(initialised(), ids, mask, train=True)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(zeros) == 1 + 2 * SMALL.layers
    assert len({z.tobytes() for z in zeros}) == len(zeros)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("length", [64, 63])
def test_the_keep_mask_keeps_its_share_independently(rate, length):
    shape = (4, 8, length, 50)
    keep = np.asarray(keep_mask(jax.random.key(0), rate, shape))
    assert keep.shape == shape
    sigma = np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(keep.mean() - (1 - rate)) < 5 * sigma
    # The two values that one random number decides are as independent as any others.
    half = -(-length // 2)
    upper, lower = keep[:, :, : length - half], keep[:, :, half:]
    pairs = (upper & lower).mean()
    assert abs(pairs - (1 - rate) ** 2) < 5 * np.sqrt(1 / upper.size)


def test_the_gelu_is_the_exact_one_and_its_gradient_too():
    from math import erf, exp, pi, sqrt

    x = np.linspace(-6, 6, 101)
    value = [v * 0.5 * (1 + erf(v / sqrt(2))) for v in x]
    slope = [0.5 * (1 + erf(v / sqrt(2))) + v * exp(-v * v / 2) / sqrt(2 * pi) for v in x]
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(gelu(x), value, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope, atol=2e-6)


def plain_attention(query, key, value, bias, mask, keep, rate, scale):
    logits = jnp.einsum("blhk,bmhk->bhlm", query, key) * scale
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(logits, axis=-1, where=mask)
    if keep is not None:
        weights = weights * keep / (1 - rate)
    return jnp.einsum("bhlm,bmhk->blhk", weights, value)


@pytest.mark.parametrize("with_dropout", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("who_sees_whom", [False, True])
def test_attention_and_its_gradient_equal_the_plain_formula(who_sees_whom, with_bias, with_dropout):
    """Seven queries and nine keys; with a bias also without a scale, as in T5."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) * 2, jnp.float32)

    query, key, value, dout = (normal(3, n, 2, 5) for n in (7, 9, 9, 7))
    bias = normal(2, 7, 9) if with_bias else None
    scale = 1.0 if with_bias else None
    mask = jnp.arange(9) < jnp.asarray([9, 4, 1])[:, None]
    wide = mask[:, None, None, :]
    if who_sees_whom:
        mask = jnp.asarray(rng.random((3, 7, 9)) > 0.5).at[..., 0].set(True)
        wide = mask[:, None]
    keep = jnp.asarray(rng.random((3, 2, 7, 9)) > 0.3) if with_dropout else None

    out, pull = jax.vjp(
        lambda q, k, v, b: attend(q, k, v, mask, keep, 0.3, b, scale), query, key, value, bias
    )
    expected, plain_pull = jax.vjp(
        lambda q, k, v, b: plain_attention(q, k, v, b, wide, keep, 0.3, scale or 5**-0.5),
        query, key, value, bias,
    )  # fmt: skip
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(pull(dout)), jax.tree.leaves(plain_pull(dout)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_projection_and_norm_gradients_equal_the_plain_formulas():
    rng = np.random.default_rng(1)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    x, kernel, dy = normal(3, 5, 2, 4), normal(2, 4, 6, 7), normal(3, 5, 6, 7)
    out, pull = jax.vjp(lambda x, k: project(x, k, 2), x, kernel)
    expected, plain = jax.vjp(lambda x, k: jnp.einsum("blhk,hkmn->blmn", x, k), x, kernel)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    for a, b in zip(pull(dy), plain(dy), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)

    x, dy = normal(3, 5, 16), normal(3, 5, 16)
    out, pull = jax.vjp(lambda x: standardize(x, 1e-3), x)
    expected, plain = jax.vjp(lambda x: jax.nn.standardize(x, epsilon=1e-3), x)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(pull(dy)[0], plain(dy)[0], atol=1e-5)


def test_bfloat16_computes_near_float32_with_float32_parameters_and_gradients():
    ids, mask = inputs()
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    boxed = jax.eval_shape(Transformer(config).init, jax.random.key(0), ids, mask)
    assert {p.dtype for p in jax.tree.leaves(boxed)} == {jnp.dtype("float32")}

    params = initialised(2.0)
    out = run(params, ids, mask, config=config)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out[mask].astype(np.float32), run(params, ids, mask)[mask], atol=0.08, rtol=0.08
    )
    _, gradient = training_gradient(params, ids, mask, config)
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_every_parameter_carries_names_that_the_sharding_rules_know():
    ids, mask = inputs()
    boxed = jax.eval_shape(Transformer(SMALL).init, jax.random.key(0), ids, mask)["params"]
    is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
        name = jax.tree_util.keystr(path)
        assert is_box(leaf), name
        assert len(leaf.names) == len(leaf.value.shape), name
        assert all(axis in LOGICAL_RULES for axis in leaf.names), name
        assert (leaf.names[0] == "layers") == ("'layers'" in name)
        partition_spec(leaf.names)


def test_the_vocabulary_is_padded_with_zero_rows_that_change_nothing():
    ids, mask = inputs()
    params = initialised()
    table = params["embeddings"]["word"]["embedding"]
    assert table.shape == (128, 32)
    assert not table[50:].any() and table[:50].any(axis=1).all()
    changed = jax.tree.map(lambda p: p, params)
    changed["embeddings"]["word"]["embedding"] = table.at[50:].set(9.0)
    np.testing.assert_array_equal(run(params, ids, mask), run(changed, ids, mask))


def test_no_segments_means_segment_zero_and_another_segment_matters():
    params = initialised()
    ids, mask = inputs()
    out = run(params, ids, mask)
    zeros = np.zeros_like(ids)
    np.testing.assert_array_equal(out, run(params, ids, mask, zeros))
    assert not np.allclose(out, run(params, ids, mask, zeros + 1))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 17), (2, 17), None, None), "17 tokens.*16 positions"),
        (((2, 8), (2, 7), None, None), "mask has shape"),
        (((2, 8), (2, 8, 7), None, None), "mask has shape"),
        (((2, 8), (2, 8), (2, 9), None), "segments has shape"),
        (((2, 8), (2, 8), None, (8,)), "positions has shape"),
        (((8,), (8,), None, None), r"\[batch, length\]"),
    ],
)
def test_input_that_does_not_fit_is_refused_in_words(shapes, message):
    ids, mask, segments, positions = (s and np.zeros(s, np.int32) for s in shapes)
    params = initialised()
    with pytest.raises(ValueError, match=message):
        run(params, ids, mask.astype(bool), segments, positions)


@pytest.mark.parametrize("change", [{"remat": "some"}, {"unroll": 0}, {"dtype": "float16"}])
def test_a_config_with_an_unknown_choice_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(SMALL, **change)
