"""Gated recurrent units, in the form of cuDNN and PyTorch; and words as their input.

Cho et al. 2014, but with the reset gate after the recurrent product ("reset after"):

    r = sigmoid(W_r x + b_r + U_r h + c_r)
    z = sigmoid(W_z x + b_z + U_z h + c_z)
    n = tanh(W_n x + b_n + r (U_n h + c_n))
    h' = (1 - z) n + z h
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.layers import Table, project, round_up, uniform_init
from mmjax.models.transformer import VOCAB_MULTIPLE
from mmjax.parallel.rules import constrain


@dataclass(frozen=True)
class GruConfig:
    """An encoder of words, as VSE++ and SCAN have it.

    Attributes:
      vocab_size: words.
      embedding_width: of a word's vector; initial values are uniform in (-0.1, 0.1).
      width: of the state.
      both_ways: a second unit reads from the end; a word's vector is the mean of both states.
      dtype: what products are computed in; states are float32.
    """

    vocab_size: int
    embedding_width: int = 300
    width: int = 1024
    both_ways: bool = False
    dtype: str = "float32"

    def module(self) -> GruEncoder:
        return GruEncoder(self)


class GruEncoder(nn.Module):
    """Encodes rows of token ids: one vector per token, float32.

    Tokens stand at the beginning of their row. At padding after a text, a unit that reads forwards
    has the state of its last word.
    """

    config: GruConfig

    @nn.compact
    def __call__(
        self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"], *, train: bool = False
    ) -> Float[Array, "B L H"]:
        del train  # there is no dropout
        config = self.config
        word = Table(
            config.vocab_size,
            config.embedding_width,
            "vocab",
            round_up(config.vocab_size, VOCAB_MULTIPLE),
            jnp.dtype(config.dtype),
            init_rows=uniform_init(0.1),
            width_axis="embed_in",
            name="word",
        )
        x = constrain(word(ids), "batch", "length", None)  # [B, L, E]
        states = Gru(config.width, config.both_ways, config.dtype, name="gru")(x, mask)
        return states.mean(axis=2)


class Gru(nn.Module):
    """One layer of gated recurrent units, forwards or both ways.

    A state is kept where `mask` is False, so that padding at either end changes nothing. Gives the
    state after each step, float32, the directions apart (forwards first).
    """

    width: int
    both_ways: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L E"], mask: Bool[Array, "B L"]
    ) -> Float[Array, "B L n H"]:
        B, _, E = x.shape
        names = ("forward", "backward") if self.both_ways else ("forward",)
        units = [_Weights(self.width, name=name)(E) for name in names]
        # Every input's part of the gates in one product, before the loop over time.
        kernel = jnp.concatenate([unit["input_kernel"] for unit in units], axis=1)
        bias = jnp.concatenate([unit["input_bias"] for unit in units])
        inputs = project(x.astype(self.dtype), constrain(kernel, None, None), 1) + bias
        inputs = inputs.reshape(*x.shape[:2], len(units), -1).astype(jnp.float32)  # [B, L, n, 3H]
        # Gathered once here, and not in every step.
        kernels = jnp.stack([unit["state_kernel"] for unit in units]).astype(self.dtype)
        kernels = constrain(kernels, None, None, None)  # [n, H, 3H]
        biases = jnp.stack([unit["state_bias"] for unit in units])[:, None]  # [n, 1, 3H]

        def step(h: Float[Array, "n B H"], now: Any) -> tuple[Array, Array]:
            at, real = now
            by_state = jnp.einsum(
                "nbh,nhg->nbg", h.astype(self.dtype), kernels, preferred_element_type=jnp.float32
            )
            by_state += biases
            (ir, iz, inew), (hr, hz, hnew) = (jnp.split(y, 3, axis=-1) for y in (at, by_state))
            z = jax.nn.sigmoid(iz + hz)
            new = jnp.tanh(inew + jax.nn.sigmoid(ir + hr) * hnew)
            h = jnp.where(real[..., None], (1 - z) * new + z * h, h)
            return h, h

        first = constrain(jnp.zeros((len(units), B, self.width)), None, "batch", None)
        reals = jnp.broadcast_to(mask[..., None], inputs.shape[:3])
        _, states = jax.lax.scan(step, first, (_by_step(inputs), _by_step(reals)))
        return _by_row(states)  # [B, L, n, H]


class _Weights(nn.Module):
    """Of one direction; the gates are r, z and n, side by side."""

    width: int

    @nn.compact
    def __call__(self, inputs: int) -> dict[str, Array]:
        gates = 3 * self.width
        shapes = {
            "input_kernel": ((inputs, gates), ("embed_in", "gates")),
            "input_bias": ((gates,), ("gates",)),
            "state_kernel": ((self.width, gates), ("state", "gates")),
            "state_bias": ((gates,), ("gates",)),
        }
        # As PyTorch begins.
        init = uniform_init(self.width**-0.5)
        return {
            name: self.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)
            for name, (shape, axes) in shapes.items()
        }


def _by_step(x: Array) -> Array:
    """[B, L, n, ...] -> [L, n, B, ...], the second direction from the end."""
    x = jnp.concatenate([x[:, :, :1], jnp.flip(x[:, :, 1:], axis=1)], axis=2)
    return jnp.moveaxis(x, 0, 2)


def _by_row(x: Array) -> Array:
    """The inverse of `_by_step`."""
    x = jnp.moveaxis(x, 2, 0)
    return jnp.concatenate([x[:, :, :1], jnp.flip(x[:, :, 1:], axis=1)], axis=2)
