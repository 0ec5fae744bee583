"""The multimodal decoder: a GPT that reads a dialogue with its images and writes what comes next.

An image is one or more vectors that stand where it occurred, among the words' (JDDC 2.1, 4.1).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.attention import causal, same_number
from mmjax.models.copying import CopyCache, CopyHead, ReadTokens
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import Projection
from mmjax.models.packed_rows import packed_mask, packed_numbers, packed_positions
from mmjax.models.pixels import mirror, normalize
from mmjax.models.transformer import Transformer, TransformerConfig, last_real
from mmjax.parallel.rules import constrain


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Attributes:
    text: the causal transformer; its `segments`, or its words as such, are the speakers.
    image: network of the pixels; None: there are none.
    image_features: width of features that a batch holds instead of pixels; None: it holds none.
    image_vectors: "pooled": one for each image, the mean over the network's last map; "grid": one
      for each place of that map, row by row. Of features, a batch says how many there are.
    copies: words may also be copied from what was read, see `CopyHead`.
    prefix_lm: what is read is seen from all of what is read, and not only from what comes later
      (Raffel et al. 2020, 3.2.1).
    loss_block: places of each row whose logits exist at a time.
    """

    text: TransformerConfig
    image: ImageTowerConfig | None = None
    image_features: int | None = None
    image_vectors: Literal["pooled", "grid"] = "pooled"
    copies: bool = False
    prefix_lm: bool = False
    loss_block: int = 32

    def __post_init__(self):
        if not self.text.attention.causal:
            raise ValueError("a decoder needs a causal attention")
        if self.image is not None and self.image_features is not None:
            raise ValueError("images come as pixels or as features, not as both")
        if self.loss_block < 1:
            raise ValueError(f"loss_block={self.loss_block} must be at least 1")
        if self.image_vectors not in ("pooled", "grid"):
            raise ValueError(f'image_vectors={self.image_vectors!r} is neither "pooled" nor "grid"')

    @property
    def sees_images(self) -> bool:
        return self.image is not None or self.image_features is not None


class Decoder(nn.Module):
    """What comes after each token of dialogues, several of which may share a row.

    A batch holds, each as {"ids": int [B, L], "mask": bool [B, L]},

    * "text": the tokens; what stands at an image is not looked at;
    * "speaker", of each token, where the transformer has segments and speakers are to be told;
    * "dialogue", where rows hold several dialogues: the number of each token's, rising along the
      row. A token sees its own dialogue alone, and its position there counts.
    * "image_at", where the model sees images: n at the n-th vector of the row's images (from 1,
      an image's own one after another), 0 at words;

    and for the I images of a row (fewer where "has_image" bool [B, I] is False) either "image"
    uint8 [B, I, S, S, 3], in training with "mirror" bool [B, I], or "image_features" float
    [B, I, G, F], of which each becomes G vectors. To copy, and for a prefix LM, it holds
    "response", which is not 0 at the tokens that are written and not read. To write answers it also
    holds, where it has "speaker", the one of what is written, "reply_speaker" int [B].
    """

    config: DecoderConfig

    def setup(self):
        config = self.config
        attention = dataclasses.replace(config.text.attention, causal=not config.prefix_lm)
        self.text = Transformer(dataclasses.replace(config.text, attention=attention))
        if config.image is not None:
            self.image_tower = config.image.module()
        if config.sees_images:
            text = config.text
            width, dtype = text.embedding_width or text.width, jnp.dtype(text.dtype)
            self.image_projection = Projection((width,), ("joint",), ("embed",), dtype)
        if config.copies:
            self.copying = CopyHead(config.text.width)

    def __call__(self, batch: Any, *, train: bool) -> dict[str, Float[Array, "B L"]]:
        """Output "losses": -log p of the token after each, float32; at the last one of anything."""
        labels = jnp.pad(batch["text"]["ids"][:, 1:], ((0, 0), (0, 1)))
        hidden = self.hidden(batch, train=train)
        losses = self.text.cross_entropy(hidden, labels, self.config.loss_block)
        if self.config.copies:
            ids, visible = batch["text"]["ids"], read_tokens(batch)[:, None, :]
            if "dialogue" in batch:
                visible = visible & packed_mask(batch["dialogue"]["ids"], batch["text"]["mask"])
            written = jnp.pad(batch["response"]["ids"][:, 1:] != 0, ((0, 0), (0, 1)))
            first = _first_tokens(batch)
            losses = self.copying(hidden, losses, ids, labels, visible, first, written)
        return {"losses": losses}

    def hidden(self, batch: Any, *, train: bool = False) -> Float[Array, "B L D"]:
        """The vector of each token."""
        text, mask = batch["text"], batch["text"]["mask"]
        positions = None
        if "dialogue" in batch:
            number = batch["dialogue"]["ids"]
            mask, positions = packed_numbers(number, mask), packed_positions(number, mask)
        if self.config.prefix_lm:
            seen = same_number(mask.astype(jnp.int32))
            mask = causal(seen) | (seen & (batch["response"]["ids"] == 0)[:, None, :])
        return self.text(
            text["ids"],
            mask,
            _speakers(batch),
            positions=positions,
            train=train,
            **self._images(batch, train),
        )

    def begin(self, batch: Any, *, branches: int, steps: int) -> tuple[Float[Array, "B V"], Any]:
        """Logits of the token after each row, which holds one dialogue and padding anywhere, and
        what `step` needs for so many more on each branch."""
        text = batch["text"]
        hidden, cache = self.text.read(
            text["ids"],
            text["mask"],
            _speakers(batch),
            branches=branches,
            steps=steps,
            segment=batch["reply_speaker"] if "speaker" in batch else None,
            **self._images(batch, False),
        )
        last = last_real(hidden, text["mask"])[:, None]
        logits = self.text.logits(last)
        if self.config.copies:
            keys = self.copying.keys(hidden, _first_tokens(batch))
            tokens = ReadTokens(keys, text["ids"], read_tokens(batch))
            copies = self.copying.begin(last, logits, tokens, branches)
            cache, logits = CopyCache(cache, tokens, copies), copies.log_p
        return logits[:, 0], cache

    def step(self, cache: Any, ids: Int[Array, "B K"]) -> tuple[Float[Array, "B K V"], Any]:
        """Logits of every token after one more on each branch."""
        if not self.config.copies:
            hidden, cache = self.text.step(cache, ids)
            return self.text.logits(hidden), cache
        follows = cache.copies.after(ids, cache.tokens)
        hidden, decoder = self.text.step(cache.decoder, ids)
        logits = self.text.logits(hidden)
        copies = self.copying.step(hidden, logits, cache.tokens, follows)
        return copies.log_p, dataclasses.replace(cache, decoder=decoder, copies=copies)

    def _images(self, batch: Any, train: bool) -> dict[str, Array]:
        """The vectors of each row's images, and where they stand."""
        config = self.config
        if not config.sees_images:
            return {}
        present = batch["has_image"]  # [B, I]
        B, images = present.shape
        if config.image is None:
            # Zero and not only unseen: what stands there may be NaN.
            x = jnp.where(present[..., None, None], batch["image_features"], 0)  # [B, I, G, F]
        else:
            pixels = constrain(_rows(batch["image"]), "batch", None, None, None)
            if train:
                pixels = mirror(pixels, _rows(batch["mirror"]))
            pixels = normalize(pixels, config.image.dtype)
            see = self.image_tower if config.image_vectors == "pooled" else self.image_tower.grid
            x = see(pixels, train, _rows(present))
            x = x.reshape(B, images, -1, x.shape[-1])  # [B, I, G, F]
        x = self.image_projection(x)
        at = batch["image_at"]["ids"]
        return {"vectors": x.reshape(B, -1, x.shape[-1]), "vector_at": at}


def read_tokens(batch: Any) -> Bool[Array, "B L"]:
    """Where words were read: neither a response's nor an image's place."""
    read = batch["text"]["mask"] & (batch["response"]["ids"] == 0)
    return read & (batch["image_at"]["ids"] == 0) if "image_at" in batch else read


def _first_tokens(batch: Any) -> Bool[Array, "B L"]:
    """Where dialogues begin."""
    mask = batch["text"]["mask"]
    if "dialogue" in batch:
        return packed_positions(batch["dialogue"]["ids"], mask) == 0
    return mask & (jnp.cumsum(mask, axis=1) == 1)


def _speakers(batch: Any) -> Array | None:
    return batch["speaker"]["ids"] if "speaker" in batch else None


def _rows(x: Array) -> Array:
    """[B, I, ...] -> [B I, ...]"""
    return x.reshape(-1, *x.shape[2:])
