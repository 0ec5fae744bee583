"""Encoder and decoder: reads one text and scores the next word of another (T5)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.cache import Cache
from mmjax.models.layers import Dropout
from mmjax.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """Attributes:
    encoder, decoder: the two transformers; they share one table of words. The decoder has a
      causal `attention` and a `cross_attention`.
    tied_head: a word's score is the dot product with its own vector; else with another table's.
    scale_logits: the decoder's output is divided by sqrt(width) before (T5 1.0, not 1.1).
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    tied_head: bool = True
    scale_logits: bool = True

    def __post_init__(self):
        if self.decoder.cross_attention is None:
            raise ValueError("the decoder needs a cross_attention to see the encoder's output")
        for field in ("vocab_size", "width", "embedding_width", "dtype"):
            if getattr(self.encoder, field) != getattr(self.decoder, field):
                raise ValueError(f"encoder and decoder share their words, but differ in {field}")

    @property
    def vocab_size(self) -> int:
        return self.encoder.vocab_size


class EncoderDecoder(nn.Module):
    """Scores of every word at every place of `target`, given `source` and the words before.

    `target` is what the decoder reads: the answer moved by one place, after a start token. Masks
    are True at real tokens. With `train=True` dropout is on and needs the rng "dropout".
    """

    config: EncoderDecoderConfig

    def setup(self):
        config = self.config
        self.words = config.encoder.words()
        self.encoder = Transformer(config.encoder, self.words)
        self.decoder = Transformer(config.decoder, self.words)
        if not config.tied_head:
            self.head = config.decoder.words()
        self.encoder_dropout = Dropout(config.encoder.dropout)
        self.decoder_dropout = Dropout(config.decoder.dropout)

    def __call__(
        self,
        source: Int[Array, "B M"],
        source_mask: Bool[Array, "B M"],
        target: Int[Array, "B L"],
        target_mask: Bool[Array, "B L"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L V"]:
        memory = self.encode(source, source_mask, train=train)
        hidden = self.decode(target, target_mask, memory, source_mask, train=train)
        return self.logits(hidden)

    def encode(
        self, source: Int[Array, "B M"], mask: Bool[Array, "B *M M"], *, train: bool = False
    ) -> Float[Array, "B M D"]:
        """What the decoder sees of the source."""
        return self.encoder_dropout(self.encoder(source, mask, train=train), train)

    def decode(
        self,
        target: Int[Array, "B L"],
        mask: Bool[Array, "B *L L"],
        memory: Float[Array, "B M D"],
        memory_mask: Bool[Array, "B *L M"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        """A vector for every place of the target, which sees no later place."""
        hidden = self.decoder(target, mask, memory=memory, memory_mask=memory_mask, train=train)
        return self.decoder_dropout(hidden, train)

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Scores of every word as the next one, float32."""
        if self.config.scale_logits:
            hidden = hidden * self.config.decoder.width**-0.5
        return (self.words if self.config.tied_head else self.head).logits(hidden)

    def begin(
        self,
        source: Int[Array, "B M"],
        source_mask: Bool[Array, "B M"],
        start: int,
        *,
        branches: int,
        steps: int,
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Scores of every first word of answers, after the token `start`, and what `step` needs.

        There is room for `branches` x `steps` more words of each.
        """
        first = jnp.full((len(source), 1), start, jnp.int32)
        hidden, cache = self.decoder.begin(
            first,
            jnp.ones(first.shape, bool),
            memory=self.encode(source, source_mask),
            memory_mask=source_mask,
            branches=branches,
            steps=steps,
        )
        return self.logits(hidden[:, None])[:, 0], cache

    def step(self, cache: Cache, ids: Int[Array, "B K"]) -> tuple[Float[Array, "B K V"], Cache]:
        """Scores of every word after one more on each branch."""
        hidden, cache = self.decoder.step(cache, ids)
        return self.logits(hidden), cache
