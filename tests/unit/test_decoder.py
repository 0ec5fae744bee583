"""What the multimodal decoder promises whatever weights it holds."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.presets import IMAGE_PRESETS, bert, gpt2
from mmjax.models.resnet import ResNetConfig

TEXT = gpt2(layers=2, width=32, heads=4, vocab_size=60, max_positions=20, dropout=0.2)
FEATURES = DecoderConfig(TEXT, image_features=6)
# Three dialogues of one row: their lengths, and their images as (place, vectors).
LENGTHS = (7, 5, 8)
IMAGES = (((2, 2),), (), ((0, 2), (5, 2)))


def dialogue(number: int) -> dict:
    """One dialogue as arrays [L]; a speaker is a word, as in GPT-2's token types."""
    rng = np.random.default_rng(number)
    n, at, features = LENGTHS[number], np.zeros(LENGTHS[number], np.int32), []
    for place, count in IMAGES[number]:
        at[place : place + count] = len(features) * count + 1 + np.arange(count)
        features.append(rng.normal(size=(count, 6)).astype(np.float32))
    return {
        "text": rng.integers(0, 60, n).astype(np.int32),
        "speaker": rng.integers(50, 52, n).astype(np.int32),
        "image_at": at,
        "image_features": features,
    }


def row(*dialogues: dict, length: int | None = None, images: int = 3, left: bool = False) -> dict:
    """A batch of one row that packs them."""
    ragged, features = {"dialogue": []}, []
    for number, one in enumerate(dialogues):
        for name in ("text", "speaker", "image_at"):
            values = one[name]
            if name == "image_at":  # counted on
                values = np.where(values > 0, values + 2 * len(features), 0)
            ragged.setdefault(name, []).append(values)
        ragged["dialogue"].append(np.full(len(one["text"]), number))
        features += one["image_features"]
    total = sum(len(one["text"]) for one in dialogues)
    space = (length or total) - total
    wide = (space, 0) if left else (0, space)
    batch = {
        name: {
            "ids": np.pad(np.concatenate(parts), wide).astype(np.int32)[None],
            "mask": np.pad(np.ones(total, bool), wide)[None],
        }
        for name, parts in ragged.items()
    }
    batch["has_image"] = (np.arange(images) < len(features))[None]
    features += [np.full((2, 6), np.nan, np.float32)] * (images - len(features))
    batch["image_features"] = np.stack(features)[None]
    return batch


@functools.cache
def parameters():
    init = functools.partial(Decoder(FEATURES).init, train=False)
    variables = jax.jit(init)(jax.random.key(0), row(*map(dialogue, range(3))))
    return jax.tree.map(lambda p: 5 * p, nn.unbox(variables))


def hidden(batch, train=False):
    return _hidden(parameters(), batch, train)


@functools.partial(jax.jit, static_argnames="train")
def _hidden(variables, batch, train):
    rngs = {"dropout": jax.random.key(0)}
    given = {"train": train, "rngs": rngs, "method": Decoder.hidden}
    return Decoder(FEATURES).apply(variables, batch, **given)


def test_a_packed_dialogue_is_as_alone_and_another_one_leaves_it_alone():
    dialogues = [dialogue(number) for number in range(3)]
    packed = hidden(row(*dialogues))
    ends = np.cumsum(LENGTHS)
    for number, end in enumerate(ends):
        alone = row(dialogues[number], length=20)
        alone = hidden({name: alone[name] for name in alone if name != "dialogue"})
        own = packed[:, end - LENGTHS[number] : end]
        np.testing.assert_allclose(alone[:, : LENGTHS[number]], own, atol=1e-5)
    # Other words, speakers and images in the first and the last one.
    changed = [dict(one) for one in dialogues]
    for one in (changed[0], changed[2]):
        one |= {"text": one["text"] ^ 1, "speaker": 101 - one["speaker"]}
        one["image_features"] = [x + 1 for x in one["image_features"]]
    other = hidden(row(*changed))
    np.testing.assert_array_equal(other[:, ends[0] : ends[1]], packed[:, ends[0] : ends[1]])
    assert not np.isclose(other[:, : ends[0]], packed[:, : ends[0]]).all(axis=-1).any()
    assert not np.isclose(other[:, ends[1] :], packed[:, ends[1] :]).all(axis=-1).any()


def test_an_image_counts_from_its_place_on_and_the_word_there_does_not():
    one = dialogue(0)
    out = hidden(row(one))
    changed = {**one, "image_features": [one["image_features"][0] + 1]}
    other = hidden(row(changed))
    np.testing.assert_array_equal(out[:, :2], other[:, :2])
    assert not np.isclose(out[:, 2:], other[:, 2:]).all(axis=-1).any()
    words = one["text"].copy()
    words[2:4] ^= 1
    np.testing.assert_array_equal(out, hidden(row({**one, "text": words})))
    # What stands where there is no image (NaN in these batches) reaches nothing.
    assert np.isfinite(hidden(row(dialogue(1)))).all()


def test_dropout_acts_in_training_only():
    batch = row(dialogue(0))
    assert not np.allclose(hidden(batch), hidden(batch, train=True))


@pytest.mark.parametrize("vectors", ["pooled", "grid"])
def test_pixels_are_seen_through_the_network_of_images(vectors):
    tower = ResNetConfig((1,), (8,), "basic", stem="small", stem_width=8, batch_norm="frozen")
    model = Decoder(DecoderConfig(TEXT, image=tower, image_vectors=vectors))
    count = 1 if vectors == "pooled" else 4  # photos of 4 pixels: a map of 2 x 2
    rng = np.random.default_rng(0)
    words = rng.integers(0, 60, (2, 12)).astype(np.int32)
    batch = {
        "text": {"ids": words, "mask": np.ones((2, 12), bool)},
        "image_at": {"ids": np.zeros((2, 12), np.int32)},
        "has_image": np.array([[True, False], [False, False]]),
        "image": rng.integers(0, 256, (2, 2, 4, 4, 3)).astype(np.uint8),
        "mirror": np.zeros((2, 2), bool),
    }
    batch["image_at"]["ids"][0, 3 : 3 + count] = 1 + np.arange(count)
    init = functools.partial(model.init, train=False)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.5).astype(np.float32) ** 2,
        nn.unbox(jax.eval_shape(init, jax.random.key(0), batch)),
    )
    tower_out = jax.eval_shape(
        lambda v: model.apply(v, batch, False, method="_images")["vectors"], variables
    )
    assert tower_out.shape == (2, 2 * count, 32)
    apply = jax.jit(functools.partial(model.apply, method=Decoder.hidden))
    out = apply(variables, batch)
    other = dict(batch, image=batch["image"] ^ 255)
    changed = apply(variables, other)
    np.testing.assert_array_equal(out[0, :3], changed[0, :3])
    assert not np.isclose(out[0, 3:], changed[0, 3:]).all(axis=-1).any()
    np.testing.assert_array_equal(out[1], changed[1])  # has none, whatever its pixels are


@functools.partial(jax.jit, static_argnames=("branches", "steps"))
def begin(variables, batch, branches, steps):
    sizes = {"branches": branches, "steps": steps}
    return Decoder(FEATURES).apply(variables, batch, **sizes, method=Decoder.begin)


@jax.jit
def step(variables, cache, ids):
    return Decoder(FEATURES).apply(variables, cache, ids, method=Decoder.step)


@jax.jit
def logits(variables, batch):
    words = variables["params"]["text"]["embeddings"]["word"]["embedding"][:60]
    x = Decoder(FEATURES).apply(variables, batch, method=Decoder.hidden)
    return jnp.einsum("bld,wd->blw", x, words)


@pytest.mark.parametrize("left", [False, True])
def test_word_by_word_gives_the_logits_of_the_whole_row(left):
    """With images, speakers, padding on either side, and branches that split and die."""
    one, rng = dialogue(2), np.random.default_rng(7)
    batch = row(one, length=10, left=left) | {"reply_speaker": np.array([51])}
    first, cache = begin(parameters(), batch, branches=3, steps=5)
    told = [[], [], []]

    def whole(words):
        ids = np.concatenate([one["text"], words]).astype(np.int32)
        more = {"text": ids, "speaker": np.append(one["speaker"], [51] * len(words))}
        more["image_at"] = np.pad(one["image_at"], (0, len(words)))
        return logits(parameters(), row({**one, **more}, length=14))[0, len(ids) - 1]

    np.testing.assert_allclose(first[0], whole([]), atol=1e-4)
    for parents in ([0, 0, 0], [2, 0, 0], [1, 1, 2], [0, 2, 1], [2, 2, 2]):
        cache = cache.reorder(jnp.array([parents]))
        words = rng.integers(0, 60, 3)
        told = [[*told[parent], word] for parent, word in zip(parents, words, strict=True)]
        found, cache = step(parameters(), cache, jnp.asarray(words[None], jnp.int32))
        for branch in range(3):
            np.testing.assert_allclose(found[0, branch], whole(told[branch]), atol=1e-4)


def test_the_losses_are_those_of_the_tokens_after_by_the_same_logits():
    batch = row(dialogue(0), dialogue(1), length=14)
    found = jax.jit(functools.partial(Decoder(FEATURES).apply, train=False))(parameters(), batch)
    log_p = jax.nn.log_softmax(logits(parameters(), batch))[0, :-1]
    after = batch["text"]["ids"][0, 1:]
    np.testing.assert_allclose(
        found["losses"][0, :-1], -log_p[np.arange(13), after], rtol=1e-5, atol=1e-5
    )


def test_a_single_word_can_be_written_on_more_branches_than_the_prompt_has_tokens():
    one = {name: dialogue(1)[name][:1] for name in ("text", "speaker", "image_at")}
    batch = row({**one, "image_features": []}) | {"reply_speaker": np.array([51])}

    def write(variables, batch):
        first, cache = begin(variables, batch, branches=3, steps=0)
        return first, step(variables, cache, jnp.zeros((1, 3), jnp.int32))[0]

    first, after = jax.eval_shape(write, parameters(), batch)
    assert (first.shape, after.shape) == ((1, 60), (1, 3, 60))


def test_prompts_and_answers_beyond_the_positions_are_refused():
    batch = row(dialogue(0)) | {"reply_speaker": np.array([51])}
    with pytest.raises(ValueError, match=r"prompts of 7 tokens and 14 more.* 20 positions"):
        begin(parameters(), batch, branches=1, steps=14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": bert(layers=1, width=8, heads=1, feed_forward=8)}, "causal"),
        ({"image": IMAGE_PRESETS["resnet-tiny"]}, "not as both"),
        ({"image_vectors": "all"}, "image_vectors='all'"),
    ],
)
def test_a_config_that_fits_no_decoder_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FEATURES, **change)
