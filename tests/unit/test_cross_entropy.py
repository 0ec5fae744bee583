"""Cross-entropy with class weights and its focal form, against torch and the formula in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmjax.losses.cross_entropy import cross_entropy


def drawn(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(5, 4, 3))).astype(np.float32)
    labels = rng.integers(0, 3, (5, 4)).astype(np.int32)
    weights = (rng.random((5, 4)) < 0.7).astype(np.float32)
    return logits, labels, weights


@pytest.mark.parametrize("class_weights", [None, (1.0, 0.25, 4.0)])
def test_value_and_gradient_are_torchs(class_weights):
    logits, labels, weights = drawn()

    def mean(logits):
        total, weight = cross_entropy(logits, labels, weights, class_weights=class_weights)
        return total / weight

    value, gradient = jax.value_and_grad(mean)(logits)
    theirs = torch.tensor(logits[weights > 0], requires_grad=True)
    own = None if class_weights is None else torch.tensor(class_weights)
    target = torch.tensor(labels[weights > 0], dtype=torch.long)
    want = torch.nn.functional.cross_entropy(theirs, target, weight=own)
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient[weights > 0], theirs.grad, atol=1e-6)
    assert (gradient[weights == 0] == 0).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_its_formula(gamma):
    logits, labels, weights = drawn()
    total, weight = cross_entropy(logits, labels, weights, focal_gamma=gamma)
    exact = logits.astype(np.float64)
    p = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    p = np.take_along_axis(p, labels[..., None], -1)[..., 0]
    want = (weights * (1 - p) ** gamma * -np.log(p)).sum()
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert weight == weights.sum()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_and_hopeless_logits_have_finite_gradients(gamma):
    logits = jnp.array([[100.0, -100.0], [-100.0, 100.0], [0.0, 0.0]])
    labels = jnp.zeros(3, jnp.int32)

    def total(logits):
        return cross_entropy(logits, labels, jnp.ones(3), focal_gamma=gamma)[0]

    assert jnp.isfinite(total(logits)) and jnp.isfinite(jax.grad(total)(logits)).all()
