"""Networks by name: each is a choice of parts and sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

from mmjax.models.attention import Attention
from mmjax.models.clip import ClipConfig
from mmjax.models.efficientnet import published as efficientnet
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import FeedForward, LayerNorm, RMSNorm
from mmjax.models.positions import (
    LearnedPositions,
    RelativePositions,
    SinusoidalPositions,
)
from mmjax.models.resnet import ResNetConfig
from mmjax.models.transformer import TransformerConfig
from mmjax.models.vision_transformer import VisionTransformerConfig


def bert(
    *,
    layers: int,
    width: int,
    heads: int,
    feed_forward: int,
    vocab_size: int = 30522,
    max_positions: int = 512,
    segments: int = 2,
    activation: str = "gelu",
    epsilon: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
) -> TransformerConfig:
    """BERT's encoder (Devlin et al. 2019) at any size.

    Raises ValueError when the width does not divide among the heads.
    """
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        norm=LayerNorm(epsilon),
        position=LearnedPositions(max_positions),
        attention=Attention(heads, per_head(width, heads), attention_dropout),
        feed_forward=FeedForward(feed_forward, activation),
        segments=segments,
        embedding_norm=True,
        dropout=dropout,
    )


def albert(
    *,
    layers: int,
    width: int,
    heads: int,
    feed_forward: int,
    embedding_width: int = 128,
    vocab_size: int = 30000,
    activation: str = "gelu_tanh",
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    **sizes: Any,
) -> TransformerConfig:
    """ALBERT's encoder (Lan et al. 2020): narrow tables, and one layer that is run many times.

    `sizes` as of `bert`, and ValueError too.
    """
    config = bert(
        layers=layers,
        width=width,
        heads=heads,
        feed_forward=feed_forward,
        vocab_size=vocab_size,
        activation=activation,
        dropout=dropout,
        attention_dropout=attention_dropout,
        **sizes,
    )
    return dataclasses.replace(config, embedding_width=embedding_width, share_layers=True)


def sinusoidal(
    *,
    layers: int,
    width: int,
    heads: int,
    feed_forward: int,
    vocab_size: int = 30000,
    max_positions: int = 1000,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    attention_dropout: float = 0.2,
    feed_forward_dropout: float = 0.2,
) -> TransformerConfig:
    """The encoder of Vaswani et al. 2017, as ParlAI has it in TransResNet (Shuster et al. 2020).

    Its words are not scaled, but begin as large as the positions. Raises ValueError when the width
    does not divide among the heads.
    """
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        norm=LayerNorm(epsilon),
        position=SinusoidalPositions(max_positions),
        attention=Attention(heads, per_head(width, heads), attention_dropout, std=None),
        feed_forward=FeedForward(feed_forward, "relu", dropout=feed_forward_dropout, std=None),
        word_std=1.0,
        dropout=dropout,
    )


def gpt2(
    *,
    layers: int,
    width: int,
    heads: int,
    feed_forward: int | None = None,
    vocab_size: int = 50257,
    max_positions: int = 1024,
    activation: str = "gelu_tanh",
    epsilon: float = 1e-5,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
) -> TransformerConfig:
    """GPT-2 (Radford et al. 2019): each token sees those before it; the words' table scores.

    `feed_forward` is 4 x width when None. Raises ValueError when the width does not divide among
    the heads.
    """
    # Section 2.3: what is added to the N residual sums begins smaller by sqrt(N).
    gain = (2 * layers) ** -0.5
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        norm=LayerNorm(epsilon),
        norm_first=True,
        final_norm=True,
        position=LearnedPositions(max_positions, std=0.01),
        attention=Attention(
            heads, per_head(width, heads), attention_dropout, causal=True, output_gain=gain
        ),
        feed_forward=FeedForward(feed_forward or 4 * width, activation, output_gain=gain),
        word_segments=True,
        dropout=dropout,
    )


def gpt(
    *,
    layers: int,
    width: int,
    heads: int,
    vocab_size: int = 40478,
    max_positions: int = 512,
    epsilon: float = 1e-5,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
) -> TransformerConfig:
    """GPT (Radford et al. 2018), as CDial-GPT (Wang et al. 2020) too: normalised after each part.

    Raises as `gpt2`.
    """
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        norm=LayerNorm(epsilon),
        position=LearnedPositions(max_positions),
        attention=Attention(heads, per_head(width, heads), attention_dropout, causal=True),
        feed_forward=FeedForward(4 * width, "gelu_tanh"),
        word_segments=True,
        dropout=dropout,
    )


def t5(
    *,
    layers: int,
    width: int,
    heads: int,
    head_dim: int,
    feed_forward: int,
    decoder_layers: int | None = None,
    vocab_size: int = 32128,
    activation: str = "relu",
    gated: bool = False,
    tied_head: bool = True,
    scale_logits: bool = True,
    buckets: int = 32,
    max_distance: int = 128,
    epsilon: float = 1e-6,
    dropout: float = 0.1,
) -> EncoderDecoderConfig:
    """T5 (Raffel et al. 2020) at any size.

    1.0 as by default; 1.1 and mT5 are gated with "gelu_tanh", have a head of their own and do not
    scale what goes into it. `decoder_layers` is as `layers` when None.
    """

    def transformer(layers: int, decoder: bool) -> TransformerConfig:
        # Not scaled: the initial weights of the query are smaller by as much.
        attention = Attention(heads, head_dim, dropout, scale=1.0, use_bias=False, std=None)
        return TransformerConfig(
            vocab_size=vocab_size,
            width=width,
            layers=layers,
            norm=RMSNorm(epsilon),
            norm_first=True,
            final_norm=True,
            attention=attention.copy(causal=decoder),
            cross_attention=attention if decoder else None,
            relative=RelativePositions(
                buckets, max_distance, two_sided=not decoder, heads=heads, std=width**-0.5
            ),
            feed_forward=FeedForward(
                feed_forward, activation, gated, use_bias=False, dropout=dropout, std=None
            ),
            word_std=1.0,
            dropout=dropout,
        )

    return EncoderDecoderConfig(
        encoder=transformer(layers, decoder=False),
        decoder=transformer(layers if decoder_layers is None else decoder_layers, decoder=True),
        tied_head=tied_head,
        scale_logits=scale_logits,
    )


def t5_v1_1(**sizes: Any) -> EncoderDecoderConfig:
    """T5 1.1 and mT5 (Xue et al. 2021, 3.1): `t5` with other parts."""
    return t5(activation="gelu_tanh", gated=True, tied_head=False, scale_logits=False, **sizes)


def vit(
    *,
    layers: int,
    width: int,
    heads: int,
    feed_forward: int,
    image_size: int = 224,
    patch_size: int = 16,
    activation: str = "gelu",
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    patch_bias: bool = True,
    embedding_norm: bool = False,
) -> VisionTransformerConfig:
    """The vision transformer (Dosovitskiy et al. 2021) at any size.

    Raises ValueError when the width does not divide among the heads, or the photos' side into
    patches.
    """
    return VisionTransformerConfig(
        image_size=image_size,
        patch_size=patch_size,
        patch_bias=patch_bias,
        width=width,
        layers=layers,
        norm=LayerNorm(epsilon),
        norm_first=True,
        final_norm=True,
        embedding_norm=embedding_norm,
        attention=Attention(heads, per_head(width, heads), attention_dropout),
        feed_forward=FeedForward(feed_forward, activation),
        dropout=dropout,
    )


def clip_text(
    *,
    layers: int,
    width: int,
    heads: int,
    feed_forward: int,
    vocab_size: int = 49408,
    max_positions: int = 77,
    activation: str = "quick_gelu",
    epsilon: float = 1e-5,
    attention_dropout: float = 0.0,
) -> TransformerConfig:
    """CLIP's transformer of texts (Radford et al. 2021, 2.4); raises as `gpt2`."""
    config = gpt2(
        layers=layers,
        width=width,
        heads=heads,
        feed_forward=feed_forward,
        vocab_size=vocab_size,
        max_positions=max_positions,
        activation=activation,
        epsilon=epsilon,
        dropout=0.0,
        attention_dropout=attention_dropout,
    )
    return dataclasses.replace(config, word_segments=False)


def clip_vision(
    *,
    activation: str = "quick_gelu",
    epsilon: float = 1e-5,
    attention_dropout: float = 0.0,
    **sizes: Any,
) -> VisionTransformerConfig:
    """CLIP's vision transformer (Radford et al. 2021, 2.4); `sizes` and ValueError as of `vit`."""
    return vit(
        activation=activation,
        epsilon=epsilon,
        attention_dropout=attention_dropout,
        patch_bias=False,
        embedding_norm=True,
        **sizes,
    )


def per_head(width: int, heads: int) -> int:
    """Width of a head when they share a model's width; ValueError when it does not divide."""
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} does not divide among {heads} heads")
    return width // heads


PRESETS: dict[str, TransformerConfig] = {
    # Turc et al. 2019; the label encoder of PhotoChat's dual encoder.
    "bert-tiny": bert(layers=2, width=128, heads=2, feed_forward=512),
    "bert-base": bert(layers=12, width=768, heads=12, feed_forward=3072),
    # Wang et al. 2020, every second layer kept: what all-MiniLM-L6-v2 was trained from.
    "minilm-l6": bert(layers=6, width=384, heads=12, feed_forward=1536),
    # Lan et al. 2020, table 1.
    "albert-base": albert(layers=12, width=768, heads=12, feed_forward=3072),
    "albert-large": albert(layers=24, width=1024, heads=16, feed_forward=4096),
    # The text encoders of TransResNet as ParlAI has them by default.
    "transresnet": sinusoidal(layers=2, width=300, heads=2, feed_forward=1200),
}

CAUSAL_PRESETS: dict[str, TransformerConfig] = {
    # For trials, and to be trained from scratch without an accelerator.
    "gpt2-tiny": gpt2(layers=2, width=128, heads=2),
    "gpt2-4x256": gpt2(layers=4, width=256, heads=4),
    "gpt2-6x512": gpt2(layers=6, width=512, heads=8),
    # Radford et al. 2019, table 2.
    "gpt2-small": gpt2(layers=12, width=768, heads=12),
    "gpt2-medium": gpt2(layers=24, width=1024, heads=16),
    "gpt2-large": gpt2(layers=36, width=1280, heads=20),
    "gpt2-xl": gpt2(layers=48, width=1600, heads=25),
    # Radford et al. 2018, 4.1.
    "gpt": gpt(layers=12, width=768, heads=12),
}

ENCODER_DECODER_PRESETS: dict[str, EncoderDecoderConfig] = {
    # Raffel et al. 2020, 3.7.
    "t5-small": t5(layers=6, width=512, heads=8, head_dim=64, feed_forward=2048),
    "t5-base": t5(layers=12, width=768, heads=12, head_dim=64, feed_forward=3072),
    "t5-large": t5(layers=24, width=1024, heads=16, head_dim=64, feed_forward=4096),
    "t5-3b": t5(layers=24, width=1024, heads=32, head_dim=128, feed_forward=16384),
    # The released checkpoints of 1.1: less wide between the projections, since there are three.
    "t5-1.1-small": t5_v1_1(layers=8, width=512, heads=6, head_dim=64, feed_forward=1024),
    "t5-1.1-base": t5_v1_1(layers=12, width=768, heads=12, head_dim=64, feed_forward=2048),
    "t5-1.1-large": t5_v1_1(layers=24, width=1024, heads=16, head_dim=64, feed_forward=2816),
    "t5-1.1-xl": t5_v1_1(layers=24, width=2048, heads=32, head_dim=64, feed_forward=5120),
}

_BASIC_WIDTHS = (64, 128, 256, 512)
_BOTTLENECK_WIDTHS = (256, 512, 1024, 2048)

IMAGE_PRESETS: dict[str, ImageTowerConfig] = {
    # He et al. 2016, table 1.
    "resnet-18": ResNetConfig((2, 2, 2, 2), _BASIC_WIDTHS, "basic"),
    "resnet-34": ResNetConfig((3, 4, 6, 3), _BASIC_WIDTHS, "basic"),
    "resnet-50": ResNetConfig((3, 4, 6, 3), _BOTTLENECK_WIDTHS, "bottleneck"),
    "resnet-101": ResNetConfig((3, 4, 23, 3), _BOTTLENECK_WIDTHS, "bottleneck"),
    "resnet-152": ResNetConfig((3, 8, 36, 3), _BOTTLENECK_WIDTHS, "bottleneck"),
    # For trials: the shallowest, and one for images of 64 pixels.
    "resnet-10": ResNetConfig((1, 1, 1, 1), _BASIC_WIDTHS, "basic"),
    "resnet-tiny": ResNetConfig(
        (1, 1, 1, 1), (16, 32, 64, 128), "basic", stem="small", stem_width=16
    ),
    # Tan and Le 2019, table 2, with the coefficients and image sizes of the published code.
    "efficientnet-b0": efficientnet(1.0, 1.0, 224),
    "efficientnet-b1": efficientnet(1.0, 1.1, 240),
    "efficientnet-b2": efficientnet(1.1, 1.2, 260),
    "efficientnet-b3": efficientnet(1.2, 1.4, 300),
    "efficientnet-b4": efficientnet(1.4, 1.8, 380),
}

_VIT_BASE = {"layers": 12, "width": 768, "heads": 12, "feed_forward": 3072}
_VIT_LARGE = {"layers": 24, "width": 1024, "heads": 16, "feed_forward": 4096}

VISION_PRESETS: dict[str, VisionTransformerConfig] = {
    # Dosovitskiy et al. 2021, table 1.
    "vit-base-32": vit(**_VIT_BASE, patch_size=32),
    "vit-base-16": vit(**_VIT_BASE),
    "vit-large-32": vit(**_VIT_LARGE, patch_size=32),
    "vit-large-16": vit(**_VIT_LARGE),
}

_CLIP_TEXT = clip_text(layers=12, width=512, heads=8, feed_forward=2048)
_CLIP_TEXT_LARGE = clip_text(layers=12, width=768, heads=12, feed_forward=3072)

CLIP_PRESETS: dict[str, ClipConfig] = {
    # Radford et al. 2021, table 20.
    "clip-base-32": ClipConfig(text=_CLIP_TEXT, image=clip_vision(**_VIT_BASE, patch_size=32)),
    "clip-base-16": ClipConfig(text=_CLIP_TEXT, image=clip_vision(**_VIT_BASE)),
    "clip-large-14": ClipConfig(
        text=_CLIP_TEXT_LARGE, image=clip_vision(**_VIT_LARGE, patch_size=14), joint_dim=768
    ),
    "clip-large-14-336": ClipConfig(
        text=_CLIP_TEXT_LARGE,
        image=clip_vision(**_VIT_LARGE, patch_size=14, image_size=336),
        joint_dim=768,
    ),
}
