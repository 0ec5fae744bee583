"""The recurrent unit is PyTorch's, value by value and gradient by gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmjax.models.gru import Gru, GruConfig
from mmjax.parallel.rules import unbox
from tests.pair_oracle import QUICK_TO_COMPILE

B, L, E, H = 5, 9, 6, 8
LENGTHS = np.array([9, 1, 4, 7, 2])


def of_torch(network: torch.nn.GRU) -> dict:
    """Its parameters, or their gradients, as ours."""

    def unit(suffix, get):
        found = {}
        for ours, theirs in (("input", "ih"), ("state", "hh")):
            found[f"{ours}_kernel"] = get(f"weight_{theirs}_l0{suffix}").T
            found[f"{ours}_bias"] = get(f"bias_{theirs}_l0{suffix}")
        return found

    def tree(get):
        both = {"forward": unit("", get)}
        return {**both, "backward": unit("_reverse", get)} if network.bidirectional else both

    values = tree(lambda name: getattr(network, name).detach().numpy())
    return values, lambda: tree(lambda name: getattr(network, name).grad.numpy())


@pytest.mark.parametrize("both_ways", [False, True])
def test_states_and_gradients_of_ragged_rows_are_pytorchs(both_ways):
    torch.manual_seed(0)
    network = torch.nn.GRU(E, H, batch_first=True, bidirectional=both_ways)
    params, gradients = of_torch(network)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, L, E)).astype(np.float32)
    mask = np.arange(L) < LENGTHS[:, None]
    slope = rng.normal(size=(B, L, 1 + both_ways, H)).astype(np.float32) * mask[..., None, None]

    theirs = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        theirs, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], batch_first=True)
    states = states.reshape(B, L, 1 + both_ways, H)
    states.backward(torch.tensor(slope))

    def run(params, x):
        return Gru(H, both_ways).apply({"params": params}, x, mask)

    def step(params, x):
        found, back = jax.vjp(run, params, x)
        return found, back(slope)

    found, (dparams, dx) = quick(step)(params, x)
    real = mask[..., None, None]
    np.testing.assert_allclose(found * real, states.detach().numpy() * real, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, theirs.grad, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5),
        dparams,
        gradients(),
    )


def encoder(**changes):
    """The module's compiled function of (ids, mask), its variables, and what to give it."""
    module = GruConfig(50, 6, 8, **changes).module()
    ids = np.random.default_rng(0).integers(0, 50, (B, L))
    mask = np.arange(L) < LENGTHS[:, None]
    variables = unbox(quick(module.init)(jax.random.key(0), ids, mask))
    return quick(functools.partial(module.apply, variables)), variables, ids, mask


def quick(function):
    return jax.jit(function, compiler_options=QUICK_TO_COMPILE)


@pytest.mark.parametrize("both_ways", [False, True])
def test_what_stands_at_padding_and_how_much_of_it_changes_nothing(both_ways):
    run, _, ids, mask = encoder(both_ways=both_ways)
    found = run(ids, mask)
    other = run(np.where(mask, ids, 7), mask)
    np.testing.assert_array_equal(np.asarray(found)[mask], np.asarray(other)[mask])
    longer = np.pad(ids, ((0, 0), (0, 5)), constant_values=3)
    other = run(longer, np.pad(mask, ((0, 0), (0, 5))))[:, :L]
    np.testing.assert_allclose(
        np.asarray(other)[mask], np.asarray(found)[mask], rtol=1e-6, atol=1e-7
    )


def test_the_last_state_of_a_row_is_that_of_its_last_word():
    run, _, ids, mask = encoder()
    found = np.asarray(run(ids, mask))
    np.testing.assert_array_equal(found[:, -1], found[np.arange(B), LENGTHS - 1])


def test_a_words_vector_is_the_mean_of_both_directions():
    run, variables, ids, mask = encoder(both_ways=True)
    found = run(ids, mask)
    params = variables["params"]
    x = params["word"]["embedding"][ids]
    states = quick(Gru(8, True).apply)({"params": params["gru"]}, x, mask)
    np.testing.assert_allclose(found, (states[:, :, 0] + states[:, :, 1]) / 2, rtol=1e-6)


def test_the_first_values_are_uniform_as_vse_and_pytorch_draw_them():
    module = GruConfig(5000, 300, 64).module()
    ids = np.zeros((1, 2), int)
    params = unbox(quick(module.init)(jax.random.key(0), ids, ids == 0))["params"]
    words = np.asarray(params["word"]["embedding"])[:5000]
    assert np.abs(words).max() <= 0.1
    assert words.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.01)
    for name, values in params["gru"]["forward"].items():
        assert np.abs(values).max() <= 1 / 8, name
        assert np.std(values) == pytest.approx(0.25 / np.sqrt(12), rel=0.1), name


def test_bfloat16_is_near():
    run, _, ids, mask = encoder(both_ways=True)
    low, _, _, _ = encoder(both_ways=True, dtype="bfloat16")
    found = low(ids, mask)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, run(ids, mask), atol=0.02)
