"""Presets have the sizes of the published checkpoints."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from mmjax.models import presets
from mmjax.models.clip import Clip
from mmjax.models.encoder_decoder import EncoderDecoder
from mmjax.models.transformer import Transformer
from mmjax.models.vision_transformer import VisionTransformer

# Parameters of the published checkpoints, without heads and poolers that the model has not.
TEXTS = {
    "bert-tiny": 4_369_408,
    "bert-base": 108_891_648,
    "minilm-l6": 22_565_376,
    "albert-base": 11_092_992,
    "albert-large": 16_634_368,
    "transresnet": 11_167_800,  # by hand
}
CAUSAL = {
    # Not published: counted by hand.
    "gpt2-tiny": 6_960_768,
    "gpt2-4x256": 16_287_488,
    "gpt2-6x512": 45_171_200,
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt": 116_534_784,
}
ENCODER_DECODERS = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-1.1-small": 76_961_152,
    "t5-1.1-base": 247_577_856,
    "t5-1.1-large": 783_150_080,
    "t5-1.1-xl": 2_849_757_184,
}
VISION = {
    "vit-base-32": 87_455_232,
    "vit-base-16": 85_798_656,
    "vit-large-32": 305_510_400,
    "vit-large-16": 303_301_632,
}
CLIP = {
    "clip-base-32": 151_277_313,
    "clip-base-16": 149_620_737,
    "clip-large-14": 427_616_513,
    "clip-large-14-336": 427_944_193,
}


def count(model, *inputs) -> int:
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def padding(config) -> int:
    """Values in the rows that only fill up the table of words."""
    rows = config.padded_vocab_size - config.vocab_size
    return rows * (config.embedding_width or config.width)


IDS, MASK = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), bool)


def photos(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def test_every_preset_is_counted():
    for known, counted in (
        (presets.PRESETS, TEXTS),
        (presets.CAUSAL_PRESETS, CAUSAL),
        (presets.ENCODER_DECODER_PRESETS, ENCODER_DECODERS),
        (presets.VISION_PRESETS, VISION),
        (presets.CLIP_PRESETS, CLIP),
    ):
        assert list(known) == list(counted)


@pytest.mark.parametrize("name", [*TEXTS, *CAUSAL])
def test_transformers(name):
    config = (presets.PRESETS | presets.CAUSAL_PRESETS)[name]
    found = count(Transformer(config), IDS, MASK) - padding(config)
    assert found == (TEXTS | CAUSAL)[name]


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoders(name):
    config = presets.ENCODER_DECODER_PRESETS[name]
    assert count(EncoderDecoder(config), IDS, MASK, IDS, MASK) == ENCODER_DECODERS[name]


@pytest.mark.parametrize("name", VISION)
def test_vision_transformers(name):
    config = presets.VISION_PRESETS[name]
    assert count(VisionTransformer(config), photos(config.image_size)) == VISION[name]


@pytest.mark.parametrize("name", CLIP)
def test_clip(name):
    config = presets.CLIP_PRESETS[name]
    assert count(Clip(config), IDS, MASK, photos(config.image.image_size)) == CLIP[name]


@pytest.mark.parametrize("build", [presets.bert, presets.gpt2, presets.vit])
def test_heads_that_do_not_divide_the_width_are_refused(build):
    with pytest.raises(ValueError, match="5 heads"):
        build(layers=1, width=32, heads=5, feed_forward=8)


def test_photos_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match=r"224 pixels.*patches of 15"):
        presets.vit(layers=1, width=32, heads=4, feed_forward=8, patch_size=15)
