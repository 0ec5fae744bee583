"""What decoding asks of a model, whether it has an encoder or not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Generator:
    """A model that writes one token after another for each of B prompts, on K branches.

    Attributes:
      begin: (branches, steps) -> (logits of the first token [B, V], state), with room for so many
        calls of `step` per branch.
      step: (state, the token last written on each branch [B, K]) -> (logits of the next one
        [B, K, V], state). The state has `reorder(parents [B, K])`: branch k goes on from where
        branch `parents[:, k]` is.
      prompt, mask: tokens before the first new one, and which of them are real: what must not be
        repeated.
    """

    begin: Callable[[int, int], tuple[Float[Array, "B V"], Any]]
    step: Callable[[Any, Int[Array, "B K"]], tuple[Float[Array, "B K V"], Any]]
    prompt: Int[Array, "B L"]
    mask: Bool[Array, "B L"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """N answers to each prompt, the best first unless they are samples.

    Attributes:
      ids: new tokens with the one that ends them, then padding.
      lengths: of each, the end token counted.
      scores: log-probability under the model; of a beam search divided by length^length_penalty.
    """

    ids: Int[Array, "B N T"]
    lengths: Int[Array, "B N"]
    scores: Float[Array, "B N"]


def generator(
    module: Any, variables: Any, batch: Any, prompt: Int[Array, "B L"], mask: Bool[Array, "B L"]
) -> Generator:
    """Of a module with methods `begin(batch, branches=, steps=)` and `step(state, tokens)`."""

    def begin(branches: int, steps: int) -> tuple[Array, Any]:
        return module.apply(variables, batch, branches=branches, steps=steps, method="begin")

    step = functools.partial(module.apply, variables, method="step")
    return Generator(begin, step, prompt, mask)
