"""Activations of feed-forward layers, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The gradients are written out where automatic ones would keep more for the backward pass.


@jax.custom_vjp
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016).

    With the error function, as BERT was trained; the tanh form differs by up to 5e-4.
    """
    return x * _normal_cdf(x)


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * jnp.square(x)) * (1 / math.sqrt(2 * math.pi))
    return (dy * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _from_input(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function, whose backward pass finds its input stored and nothing else."""
    kept = jax.custom_vjp(function)
    kept.defvjp(lambda x: (function(x), x), lambda x, dy: jax.vjp(function, x)[1](dy))
    return kept


@_from_input
def gelu_tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """GELU by way of tanh (Hendrycks and Gimpel 2016, section 2), as GPT-2, ALBERT, T5 1.1."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + jnp.tanh(inner))


@_from_input
def quick_gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """GELU by way of the logistic function (Hendrycks and Gimpel 2016, section 2), as CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
}
