"""ResNet (He et al. 2016) in the form of torchvision and Hugging Face, often called v1.5.

A bottleneck's stride is in its 3x3 convolution, and not, as in the paper, in the first 1x1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mmjax.models.batch_norm import BatchNorm, BatchNormMode
from mmjax.models.convolution import convolve, max_pool
from mmjax.parallel.rules import constrain

BOTTLENECK = 4  # a bottleneck's inner width is its width divided by this

# What the backward pass finds stored instead of computing again. "none" stores everything,
# "dots" the convolutions' outputs, "full" only the input of each block.
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names("convolution"),
}


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet's parts and sizes.

    Attributes:
      depths: blocks of each stage.
      widths: channels that each stage gives.
      block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
      stem: "large": 7x7 convolution and max-pool, each of stride 2. "small", for small images: a
        3x3 convolution of stride 2.
      stem_width: channels that the stem gives.
      downsample_first: the first stage halves the map too.
      batch_norm, batch_norm_group: see `BatchNorm`; rows per group in the mode "groups".
      zero_last_scale: the last norm of each block starts with a scale of 0, so that the block
        starts as the identity (Goyal et al. 2017, 5.1).
      dtype: what is computed in; parameters, statistics and the pooled features are float32.
      remat: what the backward pass computes again, one of `REMAT_POLICIES`.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: Literal["basic", "bottleneck"]
    stem: Literal["large", "small"] = "large"
    stem_width: int = 64
    downsample_first: bool = False
    batch_norm: BatchNormMode = "global"
    batch_norm_group: int = 32
    zero_last_scale: bool = False
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        for name, allowed in (
            ("block", ("basic", "bottleneck")),
            ("stem", ("large", "small")),
            ("batch_norm", ("global", "groups", "frozen")),
            ("dtype", ("float32", "bfloat16")),
            ("remat", tuple(REMAT_POLICIES)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {allowed}")
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(f"depths={self.depths}, widths={self.widths}: one of each per stage")
        if min(*self.depths, *self.widths, self.stem_width, self.batch_norm_group) < 1:
            raise ValueError("depths, widths, stem_width and batch_norm_group must be at least 1")
        if self.block == "bottleneck" and any(width % BOTTLENECK for width in self.widths):
            raise ValueError(f"widths={self.widths} of bottlenecks must divide by {BOTTLENECK}")

    @property
    def width(self) -> int:
        """Of the features."""
        return self.widths[-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage."""
        return (2 if self.downsample_first else 1, *[2] * (len(self.depths) - 1))

    @property
    def min_size(self) -> int:
        """Pixels per side of an image: below, the last map would be padding for the most part."""
        return (4 if self.stem == "large" else 2) * math.prod(self.strides)

    def has_shortcut(self, stage: int) -> bool:
        """Whether the stage's first block projects its input to the size of its output."""
        before = self.stem_width if stage == 0 else self.widths[stage - 1]
        return self.strides[stage] != 1 or before != self.widths[stage]


class ResNet(nn.Module):
    """Features of images: one vector each, or a grid of them.

    Images are normalised RGB values. `present` is True at rows that hold an image; what the others
    hold touches nothing, their features and gradients are 0. With `train=True` the collection
    "batch_stats" is to be mutable, unless its mode is "frozen". Raises ValueError for another
    shape and for images smaller than `config.min_size`.
    """

    config: ResNetConfig

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        train: bool = False,
        present: Bool[Array, " B"] | None = None,
    ) -> Float[Array, "B D"]:
        """The mean over the grid, float32; D is `config.width`."""
        grid = self.grid(images, train, present)
        return constrain(grid.astype(jnp.float32).mean(axis=(1, 2)), "batch", None)

    @nn.compact
    def grid(
        self,
        images: Float[Array, "B H W 3"],
        train: bool = False,
        present: Bool[Array, " B"] | None = None,
    ) -> Float[Array, "B h w D"]:
        """The last stage's map in the config's dtype, h = ceil(H / 32) for a usual ResNet."""
        config = self.config
        _check_input(config, images, present)
        x = _only_present(images, present).astype(config.dtype)
        size = 7 if config.stem == "large" else 3
        x = ConvNorm(config, config.stem_width, size, 2, train, name="stem")(x, present)
        x = nn.relu(x)
        if config.stem == "large":
            x = max_pool(x)
        for i in range(len(config.depths)):
            x = Stage(config, i, train, name=f"stage{i + 1}")(x, present)
        return _only_present(x, present)


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
        first = _remat(Block, config, in_loop=False)
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


class ConvNorm(nn.Module):
    """A convolution without bias, batch-normalised."""

    config: ResNetConfig
    width: int
    size: int
    stride: int
    train: bool
    zero_scale: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], present: Bool[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        config = self.config
        axes = ("spatial", "spatial", "channels_in", "channels_out")
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(_kaiming_normal, axes),
            (self.size, self.size, x.shape[-1], self.width),
            jnp.float32,
        )
        # Rows stay where they are, and the kernel comes to them.
        kernel = constrain(kernel.astype(x.dtype), None, None, None, None)
        x = convolve(x, kernel, self.stride)
        x = constrain(checkpoint_name(x, "convolution"), "batch", None, None, None)
        scale_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        norm = BatchNorm(config.batch_norm, config.batch_norm_group, scale_init, name="norm")
        return norm(x, self.train, present)


def _stack(config: ResNetConfig, length: int) -> Any:
    """Block scanned over equal blocks, its parameters and statistics stacked along a first axis."""
    return nn.scan(
        _remat(Block, config, in_loop=True),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def _remat(block: Any, config: ResNetConfig, in_loop: bool) -> Any:
    if config.remat == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[config.remat], prevent_cse=not in_loop)


def _kaiming_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """He et al. 2015, equation 14: the variance of gradients is kept through a ReLU."""
    fan_out = shape[0] * shape[1] * shape[3]
    return jax.random.normal(key, shape, dtype) * math.sqrt(2 / fan_out)


def _only_present(x: Array, present: Array | None) -> Array:
    # where, and not a product: what stands in other rows may be NaN.
    return x if present is None else jnp.where(present[:, None, None, None], x, 0)


def _check_input(config: ResNetConfig, images: Array, present: Array | None):
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have shape {images.shape}; [batch, height, width, 3] is needed")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; normalised values (float32) are needed")
    if min(images.shape[1:3]) < config.min_size:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels: this ResNet needs at least "
            f"{config.min_size} pixels per side"
        )
    if present is not None and present.shape != images.shape[:1]:
        raise ValueError(f"present has shape {present.shape}, but there are {len(images)} images")
