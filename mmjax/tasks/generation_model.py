"""The network of the tasks that write text: a GPT, with images where the config names a tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath

from mmjax.config import limited, operational
from mmjax.data.dialogue_marks import DialogueMarks
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.losses.response import response_loss
from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained.images import load_image_tower
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.generation_examples import GenerationOptions
from mmjax.tasks.towers import (
    causal_transformer,
    fit_characters,
    fit_tokenizer,
    image_tower,
    open_weights,
)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The networks.

    Attributes:
      text: preset of a causal transformer (`mmjax.models.presets.CAUSAL_PRESETS`), or "weights": as
        the folder says.
      weights, image_weights: Hugging Face folder or hub id to start from; None: from scratch.
        `weights` also gives the tokenizer.
      tokens: of the vocabulary that is fitted on the training dialogues where there is no `weights`
        folder: "characters", or "pieces" of words (SentencePiece).
      vocab_size: at most so many.
      image: preset of the network that sees photos, or "weights"; None: photos are not seen.
      image_vectors: see `DecoderConfig`.
      batch_norm: of the image tower, by the statistics of the whole batch or by the running ones.
      copies: words may also be copied from what was read (`mmjax.models.copying`).
      prefix_lm, loss_block: see `DecoderConfig`.
      read_weight: of the words that are read in the loss, beside 1 of those that are written: 0:
        learned is what people answered, and nothing else.
      dropout: everywhere in the transformer; None: as the preset.
      attention_dropout: of the attention's weights; None: as elsewhere.
      attention: "auto": by a fused kernel wherever the devices have one that computes the same,
        which in training needs an attention_dropout of 0; "plain": never; "fused": or refuse.
      dtype: what is computed in.
      unroll: layers per trip of the loop over layers; 0: all.
      remat: what the backward pass computes again.
    """

    text: str = "gpt2-small"
    weights: str | None = None
    tokens: Literal["characters", "pieces"] = "characters"
    vocab_size: int = limited(8000, low=1)
    image: str | None = None
    image_weights: str | None = None
    image_vectors: Literal["pooled", "grid"] = "pooled"
    batch_norm: Literal["global", "frozen"] = "frozen"
    copies: bool = False
    prefix_lm: bool = False
    read_weight: float = limited(0.0, low=0)
    loss_block: int = operational(32, low=1)
    dropout: float | None = limited(None, low=0, high=1)
    attention_dropout: float | None = limited(None, low=0, high=1)
    attention: Literal["auto", "plain", "fused"] = operational("auto")
    dtype: Literal["float32", "bfloat16"] = "float32"
    unroll: int = limited(1, low=0)
    remat: Literal["none", "full", "dots"] = "none"


class GenerationModel:
    """What the options of a model mean for a task's options.

    Attributes:
      weights, image_weights: folders, opened; None where there are none.
    """

    def __init__(self, options: GenerationOptions, model: ModelOptions):
        self.options, self.model = options, model
        self.weights = open_weights(model.weights)
        self.image_weights = open_weights(model.image_weights)
        if model.prefix_lm and model.read_weight:
            raise UserError(
                f"config.model.read_weight={model.read_weight} has words learned from those before "
                "them, and with config.model.prefix_lm=True those that are read are seen before: "
                "set one of the two only."
            )
        if model.image is None and model.image_weights is not None:
            raise UserError(
                "config.model.image_weights names weights for a network that is not there: set "
                'config.model.image too ("weights": as the folder says).'
            )

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        return {**self.__dict__, "weights": None, "image_weights": None}

    def loss(self, outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        return response_loss(outputs, batch, read_weight=self.model.read_weight)

    @property
    def sees(self) -> bool:
        return self.model.image is not None

    @property
    def independent(self) -> bool:
        """Not where batch normalisation takes its statistics from the batch."""
        return not self.sees or self.model.batch_norm == "frozen"

    @property
    def vectors(self) -> int:
        """Tokens that an image takes; 0 where none is seen."""
        image = self._image()
        if image is None or self.model.image_vectors == "pooled":
            return int(image is not None)
        size, tower = self.options.image.size, image.module()
        pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

        def see(pixels: jax.Array) -> jax.Array:
            return tower.init_with_output(jax.random.key(0), pixels, method="grid")[0]

        _, height, width, _ = jax.eval_shape(see, pixels).shape
        return height * width

    def fit_tokenizer(self, texts: Iterable[str], folder: epath.PathLike) -> None:
        """Writes the weights' tokenizer, or one of the texts."""
        if self.weights is None and self.model.tokens == "characters":
            fit_characters(texts, self.model.vocab_size, folder)
        else:
            fit_tokenizer(self.weights, texts, self.model.vocab_size, folder)

    def module(self, tokenizer: Tokenizer, marks: DialogueMarks) -> Decoder:
        """The network. Raises UserError where it does not go with the tokenizer or the task."""
        text, image = self._text(tokenizer, marks), self._image()
        names = ("image_vectors", "copies", "prefix_lm", "loss_block")
        options = {name: getattr(self.model, name) for name in names}
        return Decoder(DecoderConfig(text, image, **options))

    def initial_variables(self, target: Any) -> tuple[Any, dict[str, Any]]:
        """As of `Task`."""
        found, reports = jax.tree.map(lambda _: None, target), {}
        if self.weights is not None:
            loaded = load_transformer(self.weights, target["params"]["text"])
            found["params"]["text"], reports["text"] = loaded
        if self.image_weights is not None:
            tower = {name: target[name]["image_tower"] for name in target}
            loaded, reports["image"] = load_image_tower(self.image_weights, self._image(), tower)
            for name, tree in loaded.items():
                found[name]["image_tower"] = tree
        return found, reports

    def _text(self, tokenizer: Tokenizer, marks: DialogueMarks) -> TransformerConfig:
        model, options = self.model, self.options
        text = causal_transformer(
            "text",
            model.text,
            self.weights,
            tokenizer,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            attention=model.attention,
            dtype=model.dtype,
            unroll=model.unroll,
            remat=model.remat,
        )
        if self.weights is not None and marks.vocab_size > text.padded_vocab_size:
            raise UserError(
                f"the vocabulary of {self.weights.path} lacks {', '.join(marks.added)}, and the "
                f"{text.vocab_size} words of its table leave no room for them: name a folder that "
                "was made for dialogues, such as CDial-GPT."
            )
        longest = max(
            options.max_length, options.prompt_max_length + options.decoding.max_new_tokens
        )
        if longest > text.position.max_positions:
            raise UserError(
                f"config.task asks for {longest} tokens (max_length={options.max_length}, "
                f"target_max_length={options.target_max_length}, decoding.max_new_tokens="
                f"{options.decoding.max_new_tokens}), but the model has "
                f"{text.position.max_positions} positions."
            )
        return dataclasses.replace(text, vocab_size=max(text.vocab_size, marks.vocab_size))

    def _image(self) -> ImageTowerConfig | None:
        """The network of the photos; None where they are not seen."""
        model = self.model
        if model.image is None:
            return None
        image = image_tower(
            "image",
            model.image,
            self.image_weights,
            batch_norm=model.batch_norm,
            dtype=model.dtype,
            remat=model.remat,
        )
        if self.options.image.size < image.min_size:
            raise UserError(
                f"config.task.image.size={self.options.image.size} is too small: this network "
                f"needs {image.min_size} pixels a side."
            )
        return image
