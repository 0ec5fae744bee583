"""Cross-entropy over classes, with weights of the classes and the focal form."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "*n C"],
    labels: Int[Array, "*n"],
    weights: Float[Array, "*n"],
    *,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum of weighted losses, sum of weights), float32.

    The loss of an example is -(1 - p)^gamma log p, p the probability of its class (focal loss, Lin
    et al. 2017, equation 4); gamma 0 is plain cross-entropy.

    Args:
      labels: in [0, C).
      weights: 0 for padding, whose logits and label may be anything finite.
      class_weights: C factors on the weight of the examples of each class; None: all 1.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))  # [*n, C]
    log_p = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]  # [*n]
    losses = -log_p
    if focal_gamma:
        # Not 0: its power has no finite gradient there for gamma below 1.
        losses = losses * jnp.maximum(-jnp.expm1(log_p), 1e-12) ** focal_gamma
    weights = weights.astype(jnp.float32)
    if class_weights is not None:
        weights = weights * jnp.asarray(class_weights, jnp.float32)[labels]
    return jnp.sum(losses * weights), jnp.sum(weights)
