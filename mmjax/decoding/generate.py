"""Writes answers: the one entrance to greedy decoding, sampling and beam search."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from mmjax.decoding.allowed import constraint
from mmjax.decoding.beam import beam_search
from mmjax.decoding.generator import Answers, Generator
from mmjax.decoding.options import DecodingOptions
from mmjax.decoding.word_by_word import word_by_word


def generate(
    model: Generator,
    options: DecodingOptions,
    *,
    eos_id: int,
    pad_id: int,
    allowed: Bool[Array, "*B V"] | None = None,
    key: Key[Array, "*B"] | None = None,
) -> Answers:
    """Answers to every prompt; to be called inside a jit.

    Args:
      eos_id: the token that ends an answer; `pad_id`: what stands after it.
      allowed: the words that may be written, in all rows or in each; None: all.
      key: needed when words are drawn; one of each row: then what is drawn for a row does not
        depend on the others.

    Raises:
      ValueError: `key` is missing.
    """
    allowed = None if allowed is None else jnp.asarray(allowed)
    constrain = constraint(options, eos_id, model.prompt, model.mask, allowed)
    if options.beams > 1:
        return beam_search(model, options, constrain, eos_id, pad_id)
    if options.sample and key is None:
        raise ValueError("sampling needs a key")
    return word_by_word(model, options, constrain, eos_id, pad_id, key)
