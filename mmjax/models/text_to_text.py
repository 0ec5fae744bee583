"""Classes as short answers of an encoder-decoder (Raffel et al. 2020, 2.4)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmjax.models.cache import Cache
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig


@dataclasses.dataclass(frozen=True)
class TextToTextConfig:
    """Attributes:
    model: the encoder-decoder.
    answers: ids of each class's answer, with the token that ends it.
    start: id that the decoder's input begins with.
    """

    model: EncoderDecoderConfig
    answers: tuple[tuple[int, ...], ...]
    start: int

    def __post_init__(self):
        if len(set(self.answers)) != len(self.answers):
            raise ValueError(f"two of the answers {self.answers} are the same")

    @property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The answers below each other, int32 [C, K], and where they are, bool [C, K]."""
        longest = max(map(len, self.answers))
        mask = np.arange(longest) < np.array([len(answer) for answer in self.answers])[:, None]
        table = np.zeros(mask.shape, np.int32)
        table[mask] = np.concatenate(self.answers)
        return table, mask


class TextToText(nn.Module):
    """An encoder-decoder that reads `batch["text"]` and answers with one of the config's answers.

    `batch["text"]` is {"ids": int [B, L], "mask": bool [B, L]}, `batch["label"]["ids"]` int [B, 1]
    the class.
    """

    config: TextToTextConfig

    def setup(self):
        self.model = EncoderDecoder(self.config.model)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Float[Array, "B K V"]]:
        """Output "logits": of every word at each place of the right answer."""
        table, mask = (jnp.asarray(x) for x in self.config.table)
        label = batch["label"]["ids"][:, 0]
        text = batch["text"]
        target = self._moved(table[label])
        return {"logits": self.model(text["ids"], text["mask"], target, mask[label], train=train)}

    def log_odds(self, batch: Any) -> Float[Array, " B"]:
        """log p(answer 1) - log p(answer 0) at the first token in which they differ."""
        zero, one = self.config.answers[:2]
        same = next(k for k, (a, b) in enumerate(zip(zero, one, strict=False)) if a != b)
        target = self._moved(jnp.asarray([one[: same + 1]] * len(batch["text"]["ids"])))
        text = batch["text"]
        seen = jnp.ones(target.shape, bool)
        memory = self.model.encode(text["ids"], text["mask"])
        hidden = self.model.decode(target, seen, memory, text["mask"])
        logits = self.model.logits(hidden[:, -1:])[:, 0]
        return logits[:, one[same]] - logits[:, zero[same]]

    def begin(self, batch: Any, *, branches: int, steps: int) -> tuple[Float[Array, "B V"], Cache]:
        """Scores of every first word, and what `step` needs for so many more on each branch."""
        text = batch["text"]
        sizes = {"branches": branches, "steps": steps}
        return self.model.begin(text["ids"], text["mask"], self.config.start, **sizes)

    def step(self, cache: Cache, ids: Int[Array, "B K"]) -> tuple[Float[Array, "B K V"], Cache]:
        """Scores of every word after one more on each branch."""
        return self.model.step(cache, ids)

    def _moved(self, target: Array) -> Array:
        start = jnp.full((len(target), 1), self.config.start, target.dtype)
        return jnp.concatenate([start, target[:, :-1]], axis=1)
