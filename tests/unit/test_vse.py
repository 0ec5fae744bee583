"""VSE++ is its authors' model: PyTorch's unit and linear layer, the loss of hardest negatives."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge
from mmjax.models.gru import GruConfig
from mmjax.models.pixels import normalize
from mmjax.models.presets import IMAGE_PRESETS
from mmjax.models.vse import Vse, VseConfig
from mmjax.parallel.rules import unbox
from tests.pair_oracle import QUICK_TO_COMPILE

B, L, D, WORDS = 6, 8, 16, 40
LENGTHS = np.array([8, 1, 5, 3, 2, 7])
OBJECTIVE = Objective(
    [PairTerm("pairs", "query", "photo", "scale", HardestHinge(0.2), reduction="sum", bias="bias")]
)


def quick(function):
    return jax.jit(function, compiler_options=QUICK_TO_COMPILE)


@functools.cache
def model():
    return Vse(VseConfig(GruConfig(WORDS, 10, D), IMAGE_PRESETS["resnet-tiny"]))


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(L) < LENGTHS[:, None]
    return {
        "query": {"ids": np.where(mask, rng.integers(1, WORDS, (B, L)), 0), "mask": mask},
        "image": rng.integers(0, 256, (B, 32, 32, 3)).astype(np.uint8),
        "has_image": np.array([True] * (B - 1) + [False]),
        "mirror": np.zeros(B, bool),
        "keys": np.arange(B)[:, None].astype(np.int32),
        "weight": np.array([1.0] * (B - 1) + [0.0], np.float32),
    }


@functools.cache
def variables():
    return unbox(quick(functools.partial(model().init, train=False))(jax.random.key(0), batch_of()))


def of_torch(params):
    """The text side in PyTorch, with our parameters."""
    words = torch.nn.Embedding(WORDS, 10)
    unit = torch.nn.GRU(10, D, batch_first=True)
    given, tower = (
        {k: torch.tensor(np.asarray(v)) for k, v in tree.items()}
        for tree in (params["gru"]["forward"], params["word"])
    )
    with torch.no_grad():
        words.weight.copy_(tower["embedding"][:WORDS])
        unit.weight_ih_l0.copy_(given["input_kernel"].T)
        unit.weight_hh_l0.copy_(given["state_kernel"].T)
        unit.bias_ih_l0.copy_(given["input_bias"])
        unit.bias_hh_l0.copy_(given["state_bias"])
    return words, unit


def test_a_text_is_the_state_after_its_last_word_scaled_to_length_one():
    batch, params = batch_of(), variables()["params"]["query_tower"]
    words, unit = of_torch(params)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        words(torch.tensor(batch["query"]["ids"])),
        torch.tensor(LENGTHS),
        batch_first=True,
        enforce_sorted=False,
    )
    last = unit(packed)[1][0]
    wanted = (last / last.norm(dim=1, keepdim=True)).detach().numpy()
    embed = quick(functools.partial(model().apply, method="embed_query"))
    np.testing.assert_allclose(embed(variables(), batch), wanted, rtol=1e-5, atol=1e-5)


def test_a_photo_is_scaled_mapped_and_scaled_again_and_a_missing_one_is_zero():
    batch, given = batch_of(), variables()
    embed = quick(functools.partial(model().apply, method="embed_photo"))
    found = np.asarray(embed(given, batch), np.float64)
    tower = IMAGE_PRESETS["resnet-tiny"].module()
    of_tower = {name: tree["image_tower"] for name, tree in given.items()}
    seen = np.asarray(quick(tower.apply)(of_tower, normalize(batch["image"])), np.float64)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    head = given["params"]["photo_head"]
    wanted = seen @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:-1], wanted[:-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[-1], 0)
    kernel = np.asarray(head["kernel"])
    limit = np.sqrt(6 / sum(kernel.shape))
    assert np.abs(kernel).max() <= limit and kernel.std() == pytest.approx(
        limit / np.sqrt(3), rel=0.05
    )
    assert not np.asarray(head["bias"]).any()


def test_the_loss_is_the_sum_of_hardest_hinges_of_every_photo_and_text():
    """The authors' code, in float64: cost_s and cost_im, their diagonals 0, max and sum."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(2, B, D))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    texts, photos = (torch.tensor(x[:-1], requires_grad=True) for x in vectors)
    scores = photos @ texts.T
    diagonal = scores.diagonal()
    real = ~torch.eye(B - 1, dtype=bool)
    cost_s = (0.2 + scores - diagonal[:, None]).clamp(min=0) * real
    cost_im = (0.2 + scores - diagonal[None, :]).clamp(min=0) * real
    wanted = cost_s.max(1)[0].sum() + cost_im.max(0)[0].sum()
    wanted.backward()

    def loss(query, photo):
        outputs = {"query": query, "photo": photo, "scale": jnp.float32(1), "bias": jnp.float32(0)}
        return OBJECTIVE(outputs, batch_of())[0]

    found, gradients = quick(jax.value_and_grad(loss, argnums=(0, 1)))(*np.float32(vectors))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    for got, want in zip(gradients, (texts.grad, photos.grad), strict=True):
        np.testing.assert_allclose(got[:-1], want.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(got[-1], 0)


def test_a_unit_that_reads_both_ways_has_no_last_state():
    with pytest.raises(ValueError, match="both_ways must be False"):
        VseConfig(GruConfig(WORDS, both_ways=True), IMAGE_PRESETS["resnet-tiny"])
