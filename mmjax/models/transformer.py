"""The one transformer of texts: token ids in, one vector per token out.

A family of models (BERT, T5's two halves, GPT-2) is a choice of parts in `presets.py`, never a
branch in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.attention import causal
from mmjax.models.cache import Cache
from mmjax.models.layers import Dropout, Projection, Table, round_up
from mmjax.models.positions import LearnedPositions, SinusoidalPositions
from mmjax.models.stack import Stack, StackConfig
from mmjax.parallel.rules import constrain

# 128 is the width of a TPU register row, and divides by any usual number of devices, which a
# real vocabulary (BERT's 30,522) does not.
VOCAB_MULTIPLE = 128


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(StackConfig):
    """A stack, and what makes vectors of its tokens.

    Attributes:
    position: vectors added to the words'; None: there are none.
    segments: kinds of segment, each with a vector that is added; 0: there are none.
    word_segments: a segment is itself a word, whose vector is added (GPT-2's token types).
    embedding_width: of the tables, when they are narrower than the layers: a projection widens
      them (Lan et al. 2020, 3.1).
    embedding_norm: the sum is normalised.
    word_std: standard deviation of the words' initial vectors.
    """

    vocab_size: int
    position: LearnedPositions | SinusoidalPositions | None = None
    segments: int = 0
    word_segments: bool = False
    embedding_width: int | None = None
    embedding_norm: bool = False
    word_std: float = 0.02

    def module(self) -> Transformer:
        return Transformer(self)

    @property
    def padded_vocab_size(self) -> int:
        return round_up(self.vocab_size, VOCAB_MULTIPLE)

    def words(self) -> Table:
        """The table of the words' vectors."""
        return Table(
            self.vocab_size,
            self.embedding_width or self.width,
            "vocab",
            self.padded_vocab_size,
            jnp.dtype(self.dtype),
            self.word_std,
        )


class Transformer(Stack):
    """Encodes rows of token ids: one vector per token.

    `mask` is [B, L], True at real tokens, which every token sees; or [B, L, M], True where token
    l sees token m; or int [B, L] where several texts are packed into a row, the number of each
    token's, 0 at padding. What comes out at padding is undefined. `segments` says which of the
    config's segments a token belongs to (all 0 when None), `positions` where it stands in its text
    (0, 1, 2, ... when None; packed texts begin at 0 each; relative ones need none, since distances
    within a text are the same wherever it begins).
    A decoder also sees `memory`, where `memory_mask` is True. Where `vector_at` is n > 0, the n-th
    of the row's `vectors` (of images, say) stands instead of a word's. With `train=True` dropout is
    on and needs the rng "dropout". Raises ValueError when L is beyond the positions there are; a
    value of `positions` that is gives NaN.

    `shared_words` is a table that other modules use too, instead of one of its own.
    """

    config: TransformerConfig
    shared_words: Table | None = None

    def setup(self):
        super().setup()
        self.embeddings = Embeddings(self.config, self.shared_words)

    def __call__(
        self,
        ids: Int[Array, "B L"],
        mask: Bool[Array, "B *L L"] | Int[Array, "B L"],
        segments: Int[Array, "B L"] | None = None,
        *,
        positions: Int[Array, "B L"] | None = None,
        memory: Float[Array, "B M D"] | None = None,
        memory_mask: Bool[Array, "B *L M"] | None = None,
        vectors: Float[Array, "B N E"] | None = None,
        vector_at: Int[Array, "B L"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        _check_input(self.config, ids, mask, segments, positions)
        x = self.embeddings(ids, segments, positions, train, vectors, vector_at)
        return self.run(x, mask, train, memory, memory_mask)

    def logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Scores of every word, float32: the vectors' dot products with the words' own."""
        return self.embeddings.word.logits(x)

    def cross_entropy(
        self, x: Float[Array, "B L D"], labels: Int[Array, "B L"], block: int
    ) -> Float[Array, "B L"]:
        """-log p(label) by these logits at each place, of which `block` per row exist at a time."""
        return self.embeddings.word.cross_entropy(x, labels, block)

    def begin(
        self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"], *given: Any, **options: Any
    ) -> tuple[Float[Array, "B D"], Cache]:
        """As `read`, with the vector of each prompt's last token alone."""
        x, cache = self.read(ids, mask, *given, **options)
        return last_real(x, mask), cache

    def read(
        self,
        ids: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
        segments: Int[Array, "B L"] | None = None,
        *,
        branches: int,
        steps: int,
        segment: Int[Array, " B"] | None = None,
        memory: Float[Array, "B N D"] | None = None,
        memory_mask: Bool[Array, "B N"] | None = None,
        vectors: Float[Array, "B N E"] | None = None,
        vector_at: Int[Array, "B L"] | None = None,
    ) -> tuple[Float[Array, "B L D"], Cache]:
        """Reads prompts: the vectors of their tokens, and what `step` goes on from.

        Padding may stand anywhere (in a model with relative positions: before the prompt). There
        is room for `branches` x `steps` more tokens of each, all in the given `segment`. A model
        that is not causal reads a prompt in both directions, and what it writes one by one. Raises
        ValueError where the positions do not suffice.
        """
        config, (batch, length) = self.config, ids.shape
        _check_input(config, ids, mask, segments, None)
        if config.position is not None and length + steps > config.position.max_positions:
            raise ValueError(
                f"prompts of {length} tokens and {steps} more: the model has "
                f"{config.position.max_positions} positions; clip the prompts, or write less"
            )
        count = mask.sum(axis=1)
        positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        weights = self.layer_weights()
        # One at least: a program may hold a step that is never run.
        slots = length + branches * max(steps, 1)
        kept = self.empty_cache(batch, slots, None if memory is None else memory.shape[1])
        x = self.embeddings(ids, segments, positions, False, vectors, vector_at)
        bias = None if config.relative is None else self.relative_positions(length)
        seen = causal(mask) if config.attention.causal else mask[:, None]
        x, kept = self.run_cached(x, seen, bias, kept, weights, 0, memory, memory_mask)
        visible = jnp.pad(mask, ((0, 0), (0, slots - length)))[:, None]
        cache = Cache(
            layers=kept,
            weights=weights,
            visible=jnp.broadcast_to(visible, (batch, branches, slots)),
            memory_mask=memory_mask,
            position=count,
            slot=jnp.int32(length),
            segment=segment,
            prompt=length,
        )
        return x, cache

    def step(self, cache: Cache, ids: Int[Array, "B K"]) -> tuple[Float[Array, "B K D"], Cache]:
        """Reads one more token on each branch: its vector, and what the next step goes on from."""
        cache = cache.before_step()
        positions = jnp.broadcast_to(cache.position[:, None], ids.shape)
        segments = None
        if cache.segment is not None:
            segments = jnp.broadcast_to(cache.segment[:, None], ids.shape)
        x = self.embeddings(ids, segments, positions, False)
        bias = None
        if self.config.relative is not None:
            distances = cache.distances()[None]
            bias = self.relative_positions.at(distances, cache.prompt + cache.steps)
        x, kept = self.run_cached(
            x,
            cache.visible,
            bias,
            cache.layers,
            cache.weights,
            cache.slot,
            memory_mask=cache.memory_mask,
        )
        return x, cache.after_step(kept)


def last_real(x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The vector of each row's last real token."""
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1]), 0), axis=1)
    return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


class Embeddings(nn.Module):
    """Word + position + segment, normalised (Devlin et al. 2019, figure 2)."""

    config: TransformerConfig
    shared_words: Table | None = None

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        width = config.embedding_width or config.width
        self.word = config.words() if self.shared_words is None else self.shared_words
        if config.position is not None:
            self.position = config.position.copy(dtype=dtype)
        if config.segments:
            self.segment = Table(config.segments, width, "segment", dtype=dtype)
        if config.embedding_norm:
            self.norm = config.norm.copy(dtype=dtype)
        if config.embedding_width is not None:
            self.projection = Projection((config.width,), ("embed_in",), ("embed",), dtype)
        self.dropout = Dropout(config.dropout)

    def __call__(
        self,
        ids: Int[Array, "B L"],
        segments: Int[Array, "B L"] | None,
        positions: Int[Array, "B L"] | None,
        train: bool,
        vectors: Float[Array, "B N E"] | None = None,
        vector_at: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        config = self.config
        x = constrain(self.word(ids), "batch", "length", "act_embed")  # [B, L, E]
        if vectors is not None:
            index = jnp.maximum(vector_at - 1, 0)[..., None]
            instead = jnp.take_along_axis(vectors.astype(x.dtype), index, axis=1)
            x = jnp.where(vector_at[..., None] > 0, instead, x)
        if config.position is not None:
            places = jnp.arange(ids.shape[1]) if positions is None else positions
            x = x + self.position(places, x.shape[-1])
        if config.segments:
            x = x + self.segment(jnp.zeros_like(ids) if segments is None else segments)
        if config.word_segments and segments is not None:
            x = x + self.word(segments)
        if config.embedding_norm:
            x = self.norm(x)
        x = self.dropout(x, train)
        if config.embedding_width is not None:
            x = self.projection(x)  # [B, L, D]
        return constrain(x, "batch", "length", "act_embed")


def _check_input(
    config: TransformerConfig,
    ids: Array,
    mask: Array,
    segments: Array | None,
    positions: Array | None,
):
    if ids.ndim != 2:
        raise ValueError(f"ids have shape {ids.shape}; [batch, length] is needed")
    if mask.shape not in (ids.shape, (*ids.shape, ids.shape[1])):
        raise ValueError(
            f"mask has shape {mask.shape}, but ids have {ids.shape}: the same is needed, or one "
            "more axis of that length for who sees whom"
        )
    for name, array in (("segments", segments), ("positions", positions)):
        if array is not None and array.shape != ids.shape:
            raise ValueError(f"{name} has shape {array.shape}, but ids have {ids.shape}")
    if segments is not None and not (config.segments or config.word_segments):
        raise ValueError("segments are given, but the model has none: leave them out")
    if config.position is None or positions is not None:
        return
    if ids.shape[1] > config.position.max_positions:
        raise ValueError(
            f"rows of {ids.shape[1]} tokens: the model has {config.position.max_positions} "
            "positions; clip the input to that length"
        )
