"""What is known of the things that a dialogue is about, as texts that a model can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from mmjax.data.schema import Dialogue
from mmjax.data.sources import Source
from mmjax.errors import UserError


def facts(dialogue: Dialogue) -> tuple[str, ...]:
    """ "attribute: value ;" for every one of its products' attributes, in their order; () where
    nothing is known: no product, no knowledge base, or none that knows the product."""
    return tuple(
        f"{name.strip()}: {value.strip()} ;"
        for product in dialogue.products
        for name, value in product.attributes
    )


def read_facts(
    said: Sequence[str], encode: Callable[[str], np.ndarray], room: int
) -> Int[np.ndarray, " F"]:
    """The token ids of facts, as many as fit.

    A fact is read whole or not at all: half a value would be a false one. One that does not fit is
    left out, and those after it are still read where they do.

    Args:
      room: tokens, at most.
    """
    found = [np.zeros(0, np.int32)]
    for fact in said:
        if room <= 0:
            break
        ids = encode(fact)
        if len(ids) <= room:
            found.append(ids)
            room -= len(ids)
    return np.concatenate(found)


def check_known(source: Source) -> None:
    """Raises UserError where nothing is known of any product of a split."""
    if not any(facts(source[i]) for i in range(len(source))):
        raise UserError(
            f"config.task.knowledge=True, but nothing is known of the products of any dialogue of "
            f"{source.name}: choose a dataset with a knowledge base (jddc21 with its folder "
            "knowledge), or leave config.task.knowledge=False."
        )
