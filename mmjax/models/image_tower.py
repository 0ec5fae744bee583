"""What the convolutional networks that see photos have in common."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mmjax.models.batch_norm import BatchNorm, BatchNormMode
from mmjax.models.convolution import Padding, convolve, convolve_depthwise
from mmjax.parallel.rules import constrain

# What the backward pass finds stored instead of computing again. "none" stores everything,
# "dots" the convolutions' outputs, "full" only the input of each block.
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names("convolution"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTowerConfig(abc.ABC):
    """What a run decides about a network of images; a network's sizes are in its own class.

    Attributes:
      batch_norm, batch_norm_group: see `BatchNorm`; rows per group in the mode "groups".
      batch_norm_epsilon, batch_norm_momentum: see `BatchNorm`.
      dtype: what is computed in; parameters, statistics and the pooled features are float32.
      remat: what the backward pass computes again, one of `REMAT_POLICIES`.
    """

    batch_norm: BatchNormMode = "global"
    batch_norm_group: int = 32
    batch_norm_epsilon: float = 1e-5
    batch_norm_momentum: float = 0.1
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        self.check_choice("batch_norm", ("global", "groups", "frozen"))
        self.check_choice("dtype", ("float32", "bfloat16"))
        self.check_choice("remat", tuple(REMAT_POLICIES))
        if self.batch_norm_group < 1:
            raise ValueError("batch_norm_group must be at least 1")
        if self.batch_norm_epsilon <= 0 or not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(
                f"batch_norm_epsilon={self.batch_norm_epsilon} must be above 0, "
                f"batch_norm_momentum={self.batch_norm_momentum} above 0 and at most 1"
            )

    def check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        """Raises ValueError when the field's value is not allowed."""
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name}={getattr(self, name)!r} is none of {allowed}")

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Of the features."""

    @property
    @abc.abstractmethod
    def min_size(self) -> int:
        """Pixels per side of an image: below, the last map would be padding for the most part."""

    @abc.abstractmethod
    def module(self) -> ImageTower:
        """The network of this config."""


class ImageTower(nn.Module, abc.ABC):
    """Features of images: one vector each, or a grid of them.

    Images are normalised RGB values. `present` is True at rows that hold an image; what the others
    hold touches nothing, their features and gradients are 0. With `train=True` the collection
    "batch_stats" is to be mutable, unless its mode is "frozen". Raises ValueError for another
    shape and for images smaller than `config.min_size`.
    """

    config: ImageTowerConfig

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
        """The last map in the config's dtype; h is about H / 32 for the usual networks."""
        _check_input(self.config, images, present)
        x = self.layers(_only_present(images, present).astype(self.config.dtype), train, present)
        return _only_present(x, present)

    @abc.abstractmethod
    def layers(
        self, x: Float[Array, "B H W 3"], train: bool, present: Bool[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        """The network itself, which `grid` checks and masks around."""


class ConvNorm(nn.Module):
    """A convolution without bias, batch-normalised.

    A depthwise one has a kernel for each channel alone (then `width` is the input's). `out_axis`
    is the logical name of the kernel's outputs, which says how it is cut.
    """

    config: ImageTowerConfig
    width: int
    size: int
    stride: int
    train: bool
    zero_scale: bool = False
    padding: Padding | None = None
    depthwise: bool = False
    out_axis: str = "channels_out"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], present: Bool[Array, " B"] | None
    ) -> Float[Array, "B h w D"]:
        config = self.config
        channels = {"channels_in": x.shape[-1], self.out_axis: self.width}
        if self.depthwise:
            del channels["channels_in"]
        axes = ("spatial", "spatial", *channels)
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(_kaiming_normal, axes),
            (self.size, self.size, *channels.values()),
            jnp.float32,
        )
        # Rows stay where they are, and the kernel comes to them.
        kernel = constrain(kernel.astype(x.dtype), *[None] * kernel.ndim)
        apply = convolve_depthwise if self.depthwise else convolve
        x = apply(x, kernel, self.stride, self.padding)
        x = constrain(checkpoint_name(x, "convolution"), "batch", None, None, None)
        norm = BatchNorm(
            config.batch_norm,
            config.batch_norm_group,
            config.batch_norm_epsilon,
            config.batch_norm_momentum,
            nn.initializers.zeros if self.zero_scale else nn.initializers.ones,
            name="norm",
        )
        return norm(x, self.train, present)


def remat(block: Any, config: ImageTowerConfig, in_loop: bool) -> Any:
    """The module class, storing for the backward pass what the config says."""
    if config.remat == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[config.remat], prevent_cse=not in_loop)


def _kaiming_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """He et al. 2015, equation 14: the variance of gradients is kept through a ReLU."""
    fan_out = shape[0] * shape[1] * (shape[3] if len(shape) == 4 else 1)  # depthwise: 1 channel
    return jax.random.normal(key, shape, dtype) * math.sqrt(2 / fan_out)


def _only_present(x: Array, present: Array | None) -> Array:
    # where, and not a product: what stands in other rows may be NaN.
    return x if present is None else jnp.where(present[:, None, None, None], x, 0)


def _check_input(config: ImageTowerConfig, images: Array, present: Array | None):
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have shape {images.shape}; [batch, height, width, 3] is needed")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; normalised values (float32) are needed")
    if min(images.shape[1:3]) < config.min_size:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels: this network needs at least "
            f"{config.min_size} pixels per side"
        )
    if present is not None and present.shape != images.shape[:1]:
        raise ValueError(f"present has shape {present.shape}, but there are {len(images)} images")
