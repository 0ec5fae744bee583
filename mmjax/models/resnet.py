"""ResNet (He et al. 2016) in the form of torchvision and Hugging Face, often called v1.5.

A bottleneck's stride is in its 3x3 convolution, and not, as in the paper, in the first 1x1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.convolution import max_pool
from mmjax.models.image_tower import ConvNorm, ImageTower, ImageTowerConfig, remat

BOTTLENECK = 4  # a bottleneck's inner width is its width divided by this


@dataclass(frozen=True)
class ResNetConfig(ImageTowerConfig):
    """A ResNet's parts and sizes.

    Attributes:
      depths: blocks of each stage.
      widths: channels that each stage gives.
      block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
      stem: "large": 7x7 convolution and max-pool, each of stride 2. "small", for small images: a
        3x3 convolution of stride 2.
      stem_width: channels that the stem gives.
      downsample_first: the first stage halves the map too.
      zero_last_scale: the last norm of each block starts with a scale of 0, so that the block
        starts as the identity (Goyal et al. 2017, 5.1).
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: Literal["basic", "bottleneck"]
    stem: Literal["large", "small"] = "large"
    stem_width: int = 64
    downsample_first: bool = False
    zero_last_scale: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.check_choice("block", ("basic", "bottleneck"))
        self.check_choice("stem", ("large", "small"))
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(f"depths={self.depths}, widths={self.widths}: one of each per stage")
        if min(*self.depths, *self.widths, self.stem_width) < 1:
            raise ValueError("depths, widths and stem_width must be at least 1")
        if self.block == "bottleneck" and any(width % BOTTLENECK for width in self.widths):
            raise ValueError(f"widths={self.widths} of bottlenecks must divide by {BOTTLENECK}")

    @property
    def width(self) -> int:
        return self.widths[-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage."""
        return (2 if self.downsample_first else 1, *[2] * (len(self.depths) - 1))

    @property
    def min_size(self) -> int:
        return (4 if self.stem == "large" else 2) * math.prod(self.strides)

    def has_shortcut(self, stage: int) -> bool:
        """Whether the stage's first block projects its input to the size of its output."""
        before = self.stem_width if stage == 0 else self.widths[stage - 1]
        return self.strides[stage] != 1 or before != self.widths[stage]

    def module(self) -> ResNet:
        return ResNet(self)


class ResNet(ImageTower):
    """The network of a `ResNetConfig`; its grid has h = ceil(H / 32) with the usual stem."""

    def layers(
        self, x: Float[Array, "B H W 3"], train: bool, present: Bool[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        config = self.config
        size = 7 if config.stem == "large" else 3
        x = ConvNorm(config, config.stem_width, size, 2, train, name="stem")(x, present)
        x = nn.relu(x)
        if config.stem == "large":
            x = max_pool(x)
        for i in range(len(config.depths)):
            x = Stage(config, i, train, name=f"stage{i + 1}")(x, present)
        return x


class Stage(nn.Module):
    """Blocks of one width. The first may change the map's size; the others are scanned."""

    config: ResNetConfig
    number: int
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], present: Bool[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        config, i = self.config, self.number
        width, stride, rest = config.widths[i], config.strides[i], config.depths[i] - 1
        first = remat(Block, config, in_loop=False)
        x, _ = first(config, width, stride, config.has_shortcut(i), self.train, name="first")(
            x, present
        )
        if rest:
            x, _ = _stack(config, rest)(config, width, 1, False, self.train, name="rest")(
                x, present
            )
        return x


class Block(nn.Module):
    """Convolutions around which the input is led, as it is or projected, and added (figure 5)."""

    config: ResNetConfig
    width: int
    stride: int
    shortcut: bool
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], present: Bool[Array, " B"] | None
    ) -> tuple[Float[Array, "B h w D"], None]:
        config, width, inner = self.config, self.width, self.width // BOTTLENECK
        layers = {  # width, kernel size, stride
            "basic": [(width, 3, self.stride), (width, 3, 1)],
            "bottleneck": [(inner, 1, 1), (inner, 3, self.stride), (width, 1, 1)],
        }[config.block]
        y = x
        for i, layer in enumerate(layers, 1):
            last = i == len(layers)
            zero = last and config.zero_last_scale
            y = ConvNorm(config, *layer, self.train, zero, name=f"conv{i}")(y, present)
            y = y if last else nn.relu(y)
        if self.shortcut:
            projection = ConvNorm(config, width, 1, self.stride, self.train, name="shortcut")
            x = projection(x, present)
        return nn.relu(x + y), None  # None: scan stacks nothing


def _stack(config: ResNetConfig, length: int) -> Any:
    """Block scanned over equal blocks, its parameters and statistics stacked along a first axis."""
    return nn.scan(
        remat(Block, config, in_loop=True),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
