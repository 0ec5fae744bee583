"""Fused attention computes what the plain one does: TPU kernels interpreted, against float64."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental.pallas import tpu as pltpu

from mmjax.errors import UserError
from mmjax.models.attention import Attention
from mmjax.models.presets import gpt2
from mmjax.models.transformer import Transformer
from mmjax.observe.flops import kernel_flops, matmul_flops
from mmjax.parallel import attention
from mmjax.tasks.towers import encoder_decoder, text_tower

B, L, H, K = 2, 256, 2, 16
V5E, V3 = ("tpu", "TPU v5 lite"), ("tpu", "TPU v3")
SMALL = gpt2(layers=1, width=32, heads=2, vocab_size=50, max_positions=128, attention_dropout=0.0)


@pytest.fixture
def on(monkeypatch):
    """Makes the devices seem to be others; TPU kernels are interpreted."""
    monkeypatch.setattr(attention, "_BLOCK", attention.LANES)  # a row has several
    with pltpu.force_tpu_interpret_mode(True):
        yield lambda device: monkeypatch.setattr(attention, "_device", lambda: device)


def tokens(seed: int, *shape: int):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(3)]


def numbers(kind: str):
    """Of queries and keys: padding at the end of a row, and a row of nothing else; or two texts and
    padding in each."""
    place = np.arange(L)
    if kind == "padded":
        keys = (place < np.array([[100], [0]])).astype(np.int32)
        return np.ones((B, L), np.int32), keys
    packed = np.where(place < 100, 1, np.where(place < 220, 2, 0)).astype(np.int32)
    packed = np.stack([packed, packed[::-1]])
    return packed, packed


def expected(query, key, value, seen, bias, scale):
    """Equation 1 of Vaswani et al. 2017, in whatever precision it is given."""
    logits = jnp.einsum("blhk,bmhk->bhlm", query, key) * scale
    logits = logits if bias is None else logits + bias
    weights = jax.nn.softmax(jnp.where(seen[:, None], logits, -1e30), axis=-1)
    return jnp.einsum("bhlm,bmhk->blhk", weights, value)


@pytest.mark.parametrize(("kind", "causal"), [("padded", False), ("packed", True)])
@pytest.mark.parametrize("biased", [False, True], ids=["splash", "flash"])
def test_a_kernels_values_and_gradients_are_those_of_the_formula(on, biased, kind, causal):
    on(V5E)
    query, key, value = tokens(0, B, L, H, K)
    query_number, key_number = numbers(kind)
    seen = query_number[:, :, None] == key_number[:, None, :]
    seen = np.tril(seen) if causal else seen
    real = (query_number > 0) & seen.any(axis=-1)
    cotangent = tokens(1, B, L, H, K)[0] * real[..., None, None]
    bias = tokens(2, H, L, L)[0] if biased else None
    scale = 0.5  # not the usual one

    def fused(query, key, value, bias):
        out = attention.fused_attention(
            *(query, key, value, query_number, key_number, bias), causal=causal, scale=scale
        )
        return jnp.sum(out * cotangent), out

    def plain(query, key, value, bias):
        out = expected(query, key, value, seen, bias, scale)
        return jnp.sum(out * cotangent), out

    which = (0, 1, 2, 3) if biased else (0, 1, 2)
    actual = jax.jit(jax.grad(fused, which, has_aux=True))(query, key, value, bias)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(np.float64), (query, key, value, bias))
        wanted = jax.jit(jax.grad(plain, which, has_aux=True))(*wide)
    np.testing.assert_allclose(actual[1][real], wanted[1][real], atol=2e-6)
    assert np.isfinite(actual[1]).all()
    for a, b in zip(actual[0], wanted[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_is_given_to_cudnn_means_the_same():
    """By XLA in its place, which takes the same arguments."""
    query, key, value = tokens(0, B, L, H, K)
    bias, number = tokens(2, H, L, L)[0], numbers("packed")[0]
    seen = np.tril(number[:, :, None] == number[:, None, :])
    by_xla = functools.partial(attention.cudnn_attention, causal=True, implementation="xla")
    actual = jax.jit(by_xla)(query, key, value, number, number, bias)
    wanted = expected(query, key, value, seen, bias, 1.0)
    np.testing.assert_allclose(actual[number > 0], wanted[number > 0], atol=1e-5)


def test_the_module_learns_the_same_from_either_attention(on):
    on(V5E)
    x, number = tokens(0, 1, 128, 8)[0], numbers("packed")[0][:1, 40:168]

    def gradient(kernel):
        module = Attention(H, 4, causal=True, kernel=kernel)
        params = nn.unbox(module.init(jax.random.key(0), x, number))
        params = jax.tree.map(lambda p: 20 * p, params)

        def loss(params, x):
            out, _ = module.apply(params, x, number, True)
            return jnp.sum(jnp.where((number > 0)[..., None], jnp.sin(out), 0))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)

    found = [jax.tree.leaves(gradient(kernel)) for kernel in ("fused", "plain")]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))


def gradient(mask, **change):
    """Of a transformer, and shapes of what it takes."""
    ids = np.zeros(mask.shape[:2], np.int32)
    module = Transformer(dataclasses.replace(SMALL, **change))
    start = dataclasses.replace(SMALL, kernel="plain")
    params = nn.unbox(jax.eval_shape(Transformer(start).init, jax.random.key(0), ids, mask))

    def loss(params):
        return module.apply(
            params, ids, mask, train=True, rngs={"dropout": jax.random.key(1)}
        ).sum()

    return jax.value_and_grad(loss), params


def test_auto_is_fused_where_it_can_be_and_only_there(on):
    def kernels(*shape, **change):
        function, params = gradient(np.ones(shape or (1, 128), bool), **change)
        return str(jax.make_jaxpr(function)(params)).count("pallas_call")

    dropping = SMALL.attention.copy(dropout=0.1)
    assert kernels() == 0  # there is no kernel for a CPU
    on(V5E)
    assert kernels() == kernels(kernel="fused") > 0
    assert kernels(dtype="bfloat16") > 0
    assert kernels(kernel="plain") == 0
    assert kernels(attention=dropping) == 0
    assert kernels(1, 96) == 0
    assert kernels(1, 128, 128) == 0
    on(V3)
    assert kernels() > 0
    assert kernels(dtype="bfloat16") == 0


@pytest.mark.parametrize(
    ("device", "length", "change", "reason"),
    [
        (("cpu", "cpu"), 128, {}, "there is no kernel for cpu devices"),
        (V5E, 100, {}, "lengths 100 and 100 are no multiples of 128"),
        (V3, 128, {"dtype": "bfloat16"}, "kernels on TPU v3 compute in float32 alone"),
        (V5E, 128, {"attention": SMALL.attention.copy(dropout=0.1)}, "attention_dropout=0"),
        (("gpu", "H100"), 128, {}, "bfloat16 alone"),
        (("gpu", "H100"), 128, {"dtype": "bfloat16"}, "compute capability of 8.0"),
    ],
)
def test_fused_refuses_with_the_reason_where_it_cannot_be(on, device, length, change, reason):
    on(device)
    function, params = gradient(np.ones((1, length), bool), kernel="fused", **change)
    with pytest.raises(UserError, match=reason):
        jax.eval_shape(function, params)


def test_a_numbered_mask_says_who_sees_whom_as_a_mask_of_pairs_does():
    number = numbers("packed")[0][:1, 80:144]
    pairs = (number[:, :, None] == number[:, None, :]) & (number > 0)[:, None]
    x = tokens(0, 1, 64, 8)[0]
    module = Attention(2, 4, causal=True)
    params = module.init(jax.random.key(0), x, pairs)
    a, b = (module.apply(params, x, mask)[0] for mask in (number, pairs))
    np.testing.assert_array_equal(a[number > 0], b[number > 0])


def test_dropout_of_the_weights_is_chosen_apart_from_that_of_the_rest():
    tokenizer = SimpleNamespace(vocab_size=100)
    bert = functools.partial(text_tower, "text", "bert-tiny", None, tokenizer)
    for change, found in (
        ({}, (0.1, 0.1)),
        ({"dropout": 0.3}, (0.3, 0.3)),
        ({"attention_dropout": 0.0}, (0.1, 0.0)),
        ({"dropout": 0.3, "attention_dropout": 0.0}, (0.3, 0.0)),
    ):
        assert (bert(**change).dropout, bert(**change).attention.dropout) == found
    t5 = encoder_decoder(
        "text", "t5-small", None, tokenizer, attention_dropout=0.0, attention="plain"
    )
    assert t5.encoder.attention.dropout == t5.decoder.cross_attention.dropout == 0
    assert t5.decoder.feed_forward.dropout == t5.decoder.dropout == 0.1
    assert t5.encoder.kernel == t5.decoder.kernel == "plain"


def test_a_kernels_products_are_counted(on):
    """Forward and in one block, where nothing is left out: as many as the plain attention has."""
    on(V5E)
    qkv = [jax.ShapeDtypeStruct((B, 256, H, K), jnp.float32)] * 3
    number = jax.ShapeDtypeStruct((B, 256), jnp.int32)
    bias = jax.ShapeDtypeStruct((H, 256, 256), jnp.float32)
    product = 2 * B * H * 256 * 256 * K

    def total(*arguments):
        return attention.fused_attention(*arguments).sum()

    for given in ((), (bias,)):
        arguments = (*qkv, number, number, *given)
        assert matmul_flops(total, *arguments) == 2 * product
        gradient = jax.make_jaxpr(jax.grad(total))(*arguments)
        # Backward again the weights, and four gradients; flash attention makes weights and their
        # gradient twice, once for queries, once for keys and values.
        assert kernel_flops(gradient) == (2 + (7 if given else 5)) * product
