"""The networks whose training is compared: each one in mmjax and in PyTorch.

What `transformers` builds is described by what mmjax exports of the same preset, so the two cannot
drift apart.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import linen as nn

from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from mmjax.models.presets import CAUSAL_PRESETS, ENCODER_DECODER_PRESETS, PRESETS
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.pretrained.families import FAMILIES

START = 0  # what T5's decoder reads first


@dataclasses.dataclass(frozen=True)
class Network(ABC):
    """A kind of network with something to learn.

    Both forms take the same batch, whose "labels" are the classes of their logits; the pretrained
    part is called "network" in both.

    Attributes:
      config: of that part.
      model_type: what Hugging Face calls it.
    """

    config: Any
    model_type: str

    @property
    @abstractmethod
    def dropout(self) -> float:
        """As the preset has it."""

    @abstractmethod
    def batch(self, rows: int, length: int, target_length: int) -> dict[str, np.ndarray]:
        """Random rows of `length` tokens without padding, int32; the same every time."""

    @abstractmethod
    def module(self, dropout: float, unrolled: bool) -> nn.Module:
        """mmjax's: (batch, train=) -> {"logits"}."""

    @abstractmethod
    def torch_module(self, dropout: float) -> torch.nn.Module:
        """PyTorch's: (batch) -> logits."""

    def _described(self, config: Any) -> transformers.PretrainedConfig:
        family = next(f for f in FAMILIES[self.model_type] if f.kind is type(config))
        return transformers.AutoConfig.for_model(**family.describe(config))


class OneStack(Network):
    """Of one transformer."""

    config: TransformerConfig

    @property
    def dropout(self) -> float:
        return self.config.dropout

    def module(self, dropout: float, unrolled: bool) -> nn.Module:
        return self._ours(_computed(self.config, dropout, unrolled))

    def torch_module(self, dropout: float) -> torch.nn.Module:
        return self._theirs(self._described(_computed(self.config, dropout)))

    @abstractmethod
    def _ours(self, config: TransformerConfig) -> nn.Module:
        """With what learns on top."""

    @abstractmethod
    def _theirs(self, described: transformers.PretrainedConfig) -> torch.nn.Module:
        """The same."""


class Encoder(OneStack):
    """Two logits, read from the first token of an encoder."""

    def batch(self, rows: int, length: int, target_length: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        ids = rng.integers(0, self.config.vocab_size, (rows, length), np.int32)
        return {"ids": ids, "labels": rng.integers(0, 2, rows, np.int32)}

    def _ours(self, config: TransformerConfig) -> nn.Module:
        return Classifier(config)

    def _theirs(self, described: transformers.PretrainedConfig) -> torch.nn.Module:
        return TorchClassifier(described)


class Classifier(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, jax.Array]:
        mask = jnp.ones(batch["ids"].shape, bool)
        x = Transformer(self.config, name="network")(batch["ids"], mask, train=train)
        return {"logits": nn.Dense(2, name="head")(x[:, 0])}


class TorchClassifier(torch.nn.Module):
    def __init__(self, described: transformers.PretrainedConfig):
        super().__init__()
        self.network = transformers.AutoModel.from_config(described, add_pooling_layer=False)
        self.head = torch.nn.Linear(described.hidden_size, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.head(self.network(batch["ids"]).last_hidden_state[:, 0])


class TextToText(Network):
    """Every word of a short answer, by an encoder-decoder."""

    config: EncoderDecoderConfig

    @property
    def dropout(self) -> float:
        return self.config.encoder.dropout

    def batch(self, rows: int, length: int, target_length: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        ids = rng.integers(0, self.config.vocab_size, (rows, length), np.int32)
        labels = rng.integers(0, self.config.vocab_size, (rows, target_length), np.int32)
        read = np.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        return {"ids": ids, "read": read, "labels": labels}

    def module(self, dropout: float, unrolled: bool) -> nn.Module:
        return Answerer(self._computed(dropout, unrolled))

    def torch_module(self, dropout: float) -> torch.nn.Module:
        return TorchAnswerer(self._described(self._computed(dropout)))

    def _computed(self, dropout: float, unrolled: bool = False) -> EncoderDecoderConfig:
        sides = {
            side: _computed(getattr(self.config, side), dropout, unrolled)
            for side in ("encoder", "decoder")
        }
        return dataclasses.replace(self.config, **sides)


class Answerer(nn.Module):
    config: EncoderDecoderConfig

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, jax.Array]:
        ids, read = batch["ids"], batch["read"]
        masks = jnp.ones(ids.shape, bool), jnp.ones(read.shape, bool)
        network = EncoderDecoder(self.config, name="network")
        return {"logits": network(ids, masks[0], read, masks[1], train=train)}


class TorchAnswerer(torch.nn.Module):
    def __init__(self, described: transformers.PretrainedConfig):
        super().__init__()
        self.network = transformers.AutoModelForSeq2SeqLM.from_config(described)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        ids, read = batch["ids"], batch["read"]
        return self.network(input_ids=ids, decoder_input_ids=read, use_cache=False).logits


class Writer(OneStack):
    """The next word at every place, by a decoder."""

    def batch(self, rows: int, length: int, target_length: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        ids = rng.integers(0, self.config.vocab_size, (rows, length + 1), np.int32)
        return {"ids": ids[:, :-1], "labels": ids[:, 1:]}

    def _ours(self, config: TransformerConfig) -> nn.Module:
        return NextWord(config)

    def _theirs(self, described: transformers.PretrainedConfig) -> torch.nn.Module:
        return TorchNextWord(described)


class NextWord(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, batch: Any, train: bool = False) -> dict[str, jax.Array]:
        mask = jnp.ones(batch["ids"].shape, bool)
        network = Transformer(self.config, name="network")
        return {"logits": network.logits(network(batch["ids"], mask, train=train))}


class TorchNextWord(torch.nn.Module):
    def __init__(self, described: transformers.PretrainedConfig):
        super().__init__()
        self.network = transformers.AutoModelForCausalLM.from_config(described)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network(input_ids=batch["ids"], use_cache=False).logits


def _computed(
    config: TransformerConfig, dropout: float, unrolled: bool = False
) -> TransformerConfig:
    """With another dropout in every part that has one."""
    parts = {name: getattr(config, name) for name in ("attention", "cross_attention")}
    parts["feed_forward"] = config.feed_forward
    changed = {
        name: part.copy(dropout=dropout)
        for name, part in parts.items()
        if part is not None and part.dropout
    }
    unroll = config.layers if unrolled else 1
    return dataclasses.replace(config, dropout=dropout, unroll=unroll, **changed)


NETWORKS: dict[str, Network] = {
    **{
        name: Encoder(config, "albert" if config.share_layers else "bert")
        for name, config in PRESETS.items()
    },
    **{
        name: Writer(config, "gpt2")
        for name, config in CAUSAL_PRESETS.items()
        if name.startswith("gpt2")
    },
    # `transformers` ties every new T5's head to the words, which 1.1 does not.
    **{
        name: TextToText(config, "t5")
        for name, config in ENCODER_DECODER_PRESETS.items()
        if config.tied_head
    },
}
