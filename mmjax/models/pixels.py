"""What is left to the device of a photo's way: from bytes to the values a network wants."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from mmjax.parallel.rules import constrain

# Mean and standard deviation of ImageNet's photos, with values from 0 to 1, per channel R, G, B:
# every pretrained network of the papers was trained on photos normalised so.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def network_input(batch: Any, dtype: Any, train: bool) -> Float[Array, "B H W 3"]:
    """What a network of images takes of a batch: "image" and, in training, "mirror"."""
    pixels = constrain(batch["image"], "batch", None, None, None)
    if train:
        pixels = mirror(pixels, batch["mirror"])
    return normalize(pixels, dtype)


def network_boxes(batch: Any, train: bool) -> Float[Array, "B R 4"]:
    """Where in what `network_input` gives the "boxes" are; zeros where "box_mask" has none."""
    boxes = jnp.where(batch["box_mask"][..., None], batch["boxes"], 0)
    return mirror_boxes(boxes, batch["mirror"]) if train else boxes


def normalize(pixels: UInt8[Array, "B H W 3"], dtype: Any = jnp.float32) -> Float[Array, "B H W 3"]:
    """Bytes (0 to 255) as values of mean 0 and variance 1 over ImageNet."""
    return ((pixels.astype(jnp.float32) / 255.0 - MEAN) / STD).astype(dtype)


def mirror(pixels: UInt8[Array, "B H W 3"], rows: Bool[Array, " B"]) -> UInt8[Array, "B H W 3"]:
    """Left and right exchanged in the given rows."""
    return jnp.where(rows[:, None, None, None], pixels[:, :, ::-1], pixels)


def mirror_boxes(boxes: Float[Array, "B R 4"], rows: Bool[Array, " B"]) -> Float[Array, "B R 4"]:
    """The same for boxes (left, top, right, bottom), fractions of the width and the height."""
    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    mirrored = jnp.stack([1 - right, top, 1 - left, bottom], axis=-1)
    return jnp.where(rows[:, None, None], mirrored, boxes)
