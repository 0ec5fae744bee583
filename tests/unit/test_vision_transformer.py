"""What the vision transformer and CLIP promise besides parity with other libraries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.clip import last_token
from mmjax.models.presets import vit
from mmjax.models.vision_transformer import VisionTransformer

SMALL = vit(layers=1, width=8, heads=2, feed_forward=8, image_size=8, patch_size=4)


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (2, 16, 16, 3), (2, 8, 8, 1), (8, 8, 3)])
def test_photos_of_another_size_are_refused_in_words(shape):
    with pytest.raises(ValueError, match=r"\[batch, 8, 8, 3\] is needed"):
        jax.eval_shape(VisionTransformer(SMALL).init, jax.random.key(0), jnp.zeros(shape))


def test_the_last_real_token_is_taken_wherever_padding_stands():
    hidden = jnp.arange(12.0).reshape(3, 4, 1)
    mask = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(last_token(hidden, mask)[:, 0], [1, 7, 8])
