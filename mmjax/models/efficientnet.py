"""EfficientNet (Tan and Le 2019): mobile inverted bottlenecks, scaled in width and depth together.

In the form of Hugging Face, which is Google's: strided convolutions are padded as TensorFlow pads
images of one size, whatever the size of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.image_tower import ConvNorm, ImageTower, ImageTowerConfig, remat
from mmjax.models.layers import Projection

STEM_WIDTH, TOP_WIDTH = 32, 1280  # of B0: the first convolution's channels and the last one's

# Kernels are not cut: B4's take 70 MB in all, and widths such as 24 and 40 divide by little.
WHOLE = "channels"


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind in B0, before scaling.

    Attributes:
      depth: how many blocks.
      kernel: pixels per side of the depthwise convolution's kernel.
      stride: of the first block.
      expansion: the depthwise convolution has this many times its block's input channels.
      width: channels that each block gives.
    """

    depth: int
    kernel: int
    stride: int
    expansion: int
    width: int

    def __post_init__(self):
        if min(self.depth, self.expansion, self.width) < 1:
            raise ValueError(f"{self}: depth, expansion and width must be at least 1")
        if self.kernel < 3 or self.kernel % 2 == 0 or self.stride not in (1, 2):
            raise ValueError(f"{self}: the kernel must be 3, 5, ... and the stride 1 or 2")


B0 = (  # table 1
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class EfficientNetConfig(ImageTowerConfig):
    """An EfficientNet's parts and sizes.

    Attributes:
      width_coefficient, depth_coefficient: factors on all widths and depths (equation 3).
      width_divisor: widths are rounded to multiples of it.
      stages: of the network with both factors 1.
      squeeze_ratio: a block's squeeze-and-excitation has this share of its input channels.
      symmetric: numbers of the blocks (from 0) whose strided convolution is padded alike on both
        sides, as is right where its map has an odd number of pixels per side. The others have one
        pixel less before than after.
      drop_connect: rate at which training skips the last residual block; it grows in proportion
        to a block's number (stochastic depth, Huang et al. 2016, equation 4).
    """

    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    width_divisor: int = 8
    stages: tuple[Stage, ...] = B0
    squeeze_ratio: float = 0.25
    symmetric: tuple[int, ...] = ()
    drop_connect: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if not self.stages or self.width_divisor < 1:
            raise ValueError("stages must not be empty, and width_divisor must be at least 1")
        if min(self.width_coefficient, self.depth_coefficient, self.squeeze_ratio) <= 0:
            raise ValueError("the coefficients and squeeze_ratio must be above 0")
        if not 0 <= self.drop_connect < 1:
            raise ValueError(f"drop_connect={self.drop_connect} is not from 0 to below 1")

    @property
    def width(self) -> int:
        return self.scaled(TOP_WIDTH)

    @property
    def min_size(self) -> int:
        return 2 * math.prod(stage.stride for stage in self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(math.ceil(self.depth_coefficient * stage.depth) for stage in self.stages)

    @property
    def firsts(self) -> tuple[int, ...]:
        """Number of each stage's first block among all."""
        return tuple(sum(self.depths[:i]) for i in range(len(self.stages)))

    def scaled(self, width: int) -> int:
        """A width times its coefficient, rounded to the divisor but not by more than 10% down."""
        exact, unit = width * self.width_coefficient, self.width_divisor
        rounded = max(unit, int(exact + unit / 2) // unit * unit)
        return rounded if rounded >= 0.9 * exact else rounded + unit

    def module(self) -> EfficientNet:
        return EfficientNet(self)


def published(width: float, depth: float, image_size: int) -> EfficientNetConfig:
    """One of the family, padded as it was for images of its own size (table 2)."""
    norm = {"batch_norm_epsilon": 1e-3, "batch_norm_momentum": 0.01}  # section 5.2
    config = EfficientNetConfig(width, depth, **norm)
    symmetric, side = [], math.ceil(image_size / 2)  # after the stem
    for stage, first in zip(config.stages, config.firsts, strict=True):
        if stage.stride == 2 and side % 2:
            symmetric.append(first)
        side = math.ceil(side / stage.stride)
    return EfficientNetConfig(width, depth, symmetric=tuple(symmetric), **norm)


class EfficientNet(ImageTower):
    """The network of an `EfficientNetConfig`. Training draws from the rng "dropout"."""

    config: EfficientNetConfig

    def layers(
        self, x: Float[Array, "B H W 3"], train: bool, present: Bool[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        config, blocks = self.config, sum(self.config.depths)
        stem = config.scaled(STEM_WIDTH)
        x = ConvNorm(
            config, stem, 3, 2, train, padding=_strided_padding(3), out_axis=WHOLE, name="stem"
        )(x, present)
        x = nn.silu(x)
        for i, (stage, depth, first) in enumerate(
            zip(config.stages, config.depths, config.firsts, strict=True), 1
        ):
            rates = config.drop_connect * np.arange(first, first + depth) / blocks
            rates = jnp.asarray(rates, jnp.float32)
            head = remat(Block, config, in_loop=False)
            symmetric = first in config.symmetric
            x, _ = head(config, stage, train, True, symmetric, name=f"stage{i}_first")(
                x, present, rates[0]
            )
            if depth > 1:
                rest = _stack(config, depth - 1)(config, stage, train, name=f"stage{i}_rest")
                x, _ = rest(x, present, rates[1:])
        x = ConvNorm(config, config.width, 1, 1, train, out_axis=WHOLE, name="top")(x, present)
        return nn.silu(x)


class Block(nn.Module):
    """Channels expanded, convolved one by one, weighed, and projected (Sandler et al. 2018).

    The input is added to the result, except by the first block of a stage.
    """

    config: EfficientNetConfig
    stage: Stage
    train: bool
    first: bool = False
    symmetric: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], present: Bool[Array, " B"] | None, rate: Float[Array, ""]
    ) -> tuple[Float[Array, "B h w D"], None]:
        config, stage, channels = self.config, self.stage, x.shape[-1]
        stride = stage.stride if self.first else 1
        inner = channels * stage.expansion
        asymmetric = stride == 2 and not self.symmetric
        padding = _strided_padding(stage.kernel) if asymmetric else None

        def conv(name: str, *sizes: int, **how: Any) -> ConvNorm:
            return ConvNorm(config, *sizes, self.train, out_axis=WHOLE, name=name, **how)

        y = x
        if stage.expansion > 1:
            y = nn.silu(conv("expand", inner, 1, 1)(y, present))
        y = conv("depthwise", inner, stage.kernel, stride, depthwise=True, padding=padding)(
            y, present
        )
        y = nn.silu(y)
        squeezed = max(1, int(channels * config.squeeze_ratio))
        y = SqueezeExcite(squeezed, name="squeeze_excite")(y)
        y = conv("project", config.scaled(stage.width), 1, 1)(y, present)
        if not self.first:
            if self.train and config.drop_connect:
                y = _drop_rows(y, rate, self.make_rng("dropout"))
            y = x + y
        return y, None  # None: scan stacks nothing


class SqueezeExcite(nn.Module):
    """Each channel times a weight from 0 to 1, told by the means of all (Hu et al. 2018, 3)."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        means = x.astype(jnp.float32).mean(axis=(1, 2))  # [B, C]
        y = nn.silu(Projection((self.width,), (WHOLE,), (WHOLE,), name="reduce")(means))
        weights = nn.sigmoid(Projection(x.shape[-1:], (WHOLE,), (WHOLE,), name="expand")(y))
        return x * weights.astype(x.dtype)[:, None, None, :]


def _stack(config: EfficientNetConfig, length: int) -> Any:
    """Block scanned over equal blocks, its parameters and statistics stacked along a first axis."""
    return nn.scan(
        remat(Block, config, in_loop=True),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, 0),
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def _strided_padding(kernel: int) -> tuple[int, int]:
    """TensorFlow's for an even number of pixels and a stride of 2."""
    return kernel // 2 - 1, kernel // 2


def _drop_rows(
    x: Float[Array, "B H W C"], rate: Float[Array, ""], key: Array
) -> Float[Array, "B H W C"]:
    """Rows set to 0 with probability `rate`, the others scaled up so that the mean stays."""
    keep = jax.random.uniform(key, (len(x), 1, 1, 1)) >= rate
    return jnp.where(keep, x.astype(jnp.float32) / (1 - rate), 0).astype(x.dtype)
