"""Transformers and networks of images by name: each is a choice of parts and sizes."""

from __future__ import annotations

from mmjax.models.attention import SelfAttention
from mmjax.models.efficientnet import published as efficientnet
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.layers import FeedForward, LayerNorm, LearnedPositions
from mmjax.models.resnet import ResNetConfig
from mmjax.models.transformer import TransformerConfig


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
    if width % heads:
        raise ValueError(f"width {width} does not divide among {heads} heads")
    return TransformerConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        norm=LayerNorm(epsilon),
        position=LearnedPositions(max_positions),
        attention=SelfAttention(heads, width // heads, attention_dropout),
        feed_forward=FeedForward(feed_forward, activation),
        segments=segments,
        dropout=dropout,
    )


PRESETS: dict[str, TransformerConfig] = {
    # Turc et al. 2019; the label encoder of PhotoChat's dual encoder.
    "bert-tiny": bert(layers=2, width=128, heads=2, feed_forward=512),
    "bert-base": bert(layers=12, width=768, heads=12, feed_forward=3072),
    # Wang et al. 2020, every second layer kept: what all-MiniLM-L6-v2 was trained from.
    "minilm-l6": bert(layers=6, width=384, heads=12, feed_forward=1536),
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
