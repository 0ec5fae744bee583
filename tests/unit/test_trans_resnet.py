"""TransResNet against its formulas in numpy, a row at a time without padding; its loss in torch."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from mmjax.losses.pairwise import SoftmaxCE, pair_term
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.pixels import normalize
from mmjax.models.presets import sinusoidal
from mmjax.models.trans_resnet import ContextClassifier, TransResNet, TransResNetConfig
from tests.pair_oracle import QUICK_TO_COMPILE

TEXT = sinusoidal(
    layers=2,
    width=6,
    heads=2,
    feed_forward=10,
    vocab_size=20,
    max_positions=12,
    attention_dropout=0.0,
    feed_forward_dropout=0.0,
)


class MeanColour(nn.Module):
    """As a network of images: its features are the mean values of the three channels."""

    config: ImageTowerConfig

    def __call__(self, images, train=False, present=None):
        return images.astype(jnp.float32).mean(axis=(1, 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanColourConfig(ImageTowerConfig):
    width, min_size = 3, 1

    def module(self):
        return MeanColour(self)


WITH_PHOTOS = TransResNetConfig(
    TEXT, image=MeanColourConfig(), hidden_dim=4, image_layers=2, dropout=0.0
)


def batch_of(rows=5):
    rng = np.random.default_rng(0)

    def text(longest):
        lengths = rng.integers(1, longest + 1, rows)
        mask = np.arange(longest) < lengths[:, None]
        return {"ids": rng.integers(0, 20, mask.shape).astype(np.int32), "mask": mask}

    return {
        "context": text(7),
        "response": text(5),
        "image": rng.integers(0, 256, (rows, 4, 4, 3), np.uint8),
        "has_image": np.arange(rows) % 3 != 1,
        "mirror": np.zeros(rows, bool),
    }


def made(config, batch, kind=TransResNet):
    """The model, and variables that are no special ones: what begins at 0 or 1 does not stay."""
    model = kind(config)
    variables = jax.eval_shape(lambda key: model.init(key, batch, train=False), jax.random.key(0))
    rng = np.random.default_rng(1)
    variables = nn.meta.unbox(variables)

    def drawn(x):
        values = rng.uniform(0.2, 0.6, x.shape)
        if len(x.shape) > 1:
            values *= rng.choice([-1, 1], x.shape)
        return values.astype(np.float32)

    return model, jax.tree.map(drawn, variables)


# The formulas, in float64


def position(place, width):
    angle = [place / 10000 ** (2 * (d // 2) / width) for d in range(width)]
    return np.array([math.cos(a) if d % 2 else math.sin(a) for d, a in enumerate(angle)])


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def attention(x, p):
    out = np.zeros_like(x) + p["output"]["bias"]
    for head in range(p["query"]["kernel"].shape[1]):
        q, k, v = (
            x @ p[name]["kernel"][:, head] + p[name]["bias"][head]
            for name in ("query", "key", "value")
        )
        scores = q @ k.T / math.sqrt(q.shape[1])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out += weights / weights.sum(1, keepdims=True) @ v @ p["output"]["kernel"][head]
    return out


def layers(x, stacked):
    """Each part is added to its input, and the sum is normalised."""
    count = stacked["attention_norm"]["scale"].shape[0]
    for number in range(count):
        p = jax.tree.map(lambda w, n=number: w[n], stacked)
        x = layer_norm(x + attention(x, p["attention"]), p["attention_norm"])
        inner = np.maximum(linear(x, p["feed_forward"]["up"]), 0)
        x = layer_norm(x + linear(inner, p["feed_forward"]["down"]), p["feed_forward_norm"])
    return x


def read(ids, tower, head):
    words = tower["embeddings"]["word"]["embedding"][ids]
    x = words + [position(place, words.shape[1]) for place in range(len(ids))]
    return linear(layers(x, tower["layers"]).mean(0), head)


def texts(side, tower, head):
    return np.stack(
        [read(ids[mask], tower, head) for ids, mask in zip(side["ids"], side["mask"], strict=True)]
    )


def photos(batch, variables, train):
    """Normalised by the statistics of the photos that are there, or by the running ones."""
    p, present = variables["params"], batch["has_image"]
    x = np.asarray(normalize(batch["image"]), np.float64).mean((1, 2))
    stats = variables["batch_stats"]["image_norm"]
    mean, variance = stats["mean"], stats["variance"]
    if train:
        mean, variance = x[present].mean(0), x[present].var(0)
    x = (x - mean) / np.sqrt(variance + 1e-5) * p["image_norm"]["scale"] + p["image_norm"]["bias"]
    x = linear(np.maximum(linear(x, p["image_heads_0"]), 0), p["image_heads_1"])
    return np.where(present[:, None], x, 0)


def contexts(config, batch, variables, train=False):
    p = variables["params"]
    said = texts(batch["context"], p["context_tower"], p["text_head"])
    parts = [photos(batch, variables, train), said]
    if config.fusion == "sum":
        return sum(parts)
    rows = np.stack(parts, 1) if config.fusion.endswith("concat") else sum(parts)[:, None]
    rows = rows + [position(place, rows.shape[2]) for place in range(rows.shape[1])]
    return np.stack([layers(row, p["fusion"]["layers"]).mean(0) for row in rows])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("fusion", ["sum", "transformer_sum", "transformer_concat"])
def test_contexts_and_responses_are_the_papers(fusion):
    config, batch = dataclasses.replace(WITH_PHOTOS, fusion=fusion), batch_of()
    model, variables = made(config, batch)
    found = jax.jit(functools.partial(model.apply, train=False))(variables, batch)
    wide = jax.tree.map(np.float64, variables)
    close(found["context"], contexts(config, batch, wide))
    p = wide["params"]
    close(found["response"], texts(batch["response"], p["response_tower"], p["text_head"]))
    assert found["scale"] == 1


def test_in_training_a_photo_is_normalised_by_those_of_the_batch():
    batch = batch_of()
    model, variables = made(WITH_PHOTOS, batch)
    kept = {"method": "embed_context", "mutable": ["batch_stats"]}
    found, after = jax.jit(functools.partial(model.apply, train=True, **kept))(variables, batch)
    wide = jax.tree.map(np.float64, variables)
    close(found, contexts(WITH_PHOTOS, batch, wide, train=True))
    before = variables["batch_stats"]["image_norm"]["mean"]
    seen = np.asarray(normalize(batch["image"])).mean((1, 2))[batch["has_image"]].mean(0)
    close(after["batch_stats"]["image_norm"]["mean"], 0.9 * before + 0.1 * seen)


def test_texts_alone_need_no_photo_and_one_tower_may_read_both():
    batch = {name: side for name, side in batch_of().items() if name in ("context", "response")}
    config = TransResNetConfig(TEXT, shared=True, hidden_dim=4, dropout=0.0)
    model, variables = made(config, batch)
    assert set(variables) == {"params"}
    assert set(variables["params"]) == {"context_tower", "text_head"}
    apply = jax.jit(functools.partial(model.apply, train=False))
    both = {"context": batch["context"], "response": batch["context"]}
    found = apply(variables, both)
    np.testing.assert_array_equal(found["context"], found["response"])


def test_a_classifier_begins_with_the_context_side_of_a_ranker():
    batch = batch_of()
    _, whole = made(WITH_PHOTOS, batch)
    model, variables = made(WITH_PHOTOS, batch, ContextClassifier)
    shapes = jax.tree.map(np.shape, variables["params"])
    assert shapes.pop("head") == {"kernel": (4, 2), "bias": (2,)}
    assert "response_tower" not in shapes
    assert all(shapes[name] == jax.tree.map(np.shape, whole["params"])[name] for name in shapes)
    head = variables["params"]["head"]
    found = jax.jit(functools.partial(model.apply, train=False))(variables, batch)["logits"]
    expected = contexts(WITH_PHOTOS, batch, jax.tree.map(np.float64, variables))
    close(found, linear(expected, head)[:, None])


def test_dropout_acts_before_the_linear_layer_and_only_in_training():
    batch = {"context": batch_of(rows=200)["context"]}
    model = TransResNet(TransResNetConfig(TEXT, hidden_dim=4, dropout=0.9))
    _, variables = made(model.config, {**batch, "response": batch["context"]})

    @functools.partial(jax.jit, static_argnames="train")
    def vectors(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, batch, train=train, rngs=rngs, method="embed_context")

    np.testing.assert_array_equal(vectors(0, train=False), vectors(1, train=False))
    # Where all inputs of the layer are dropped its bias alone is left, which is not scaled.
    bias = variables["params"]["text_head"]["bias"]
    share = np.isclose(vectors(0, train=True), bias).all(1).mean()
    assert 0.4 < share < 0.7  # 0.9^6 = 0.53


def test_the_loss_asks_responses_of_contexts_and_not_the_other_way():
    rng = np.random.default_rng(0)
    contexts, responses = rng.normal(size=(2, 6, 3))

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(contexts, responses):
        sums = pair_term(contexts, responses, loss=SoftmaxCE(both=False), tile=(4, 4))
        return sums.total / sums.weight

    with jax.enable_x64(True):
        value, gradients = loss(contexts, responses)
    given = [torch.tensor(x, requires_grad=True) for x in (contexts, responses)]
    expected = torch.nn.functional.cross_entropy(given[0] @ given[1].T, torch.arange(6))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    for found, x in zip(gradients, given, strict=True):
        np.testing.assert_allclose(found, x.grad.numpy(), rtol=1e-6, atol=1e-9)


def test_a_width_that_does_not_divide_among_the_heads_is_refused():
    with pytest.raises(ValueError, match="does not divide among 2 heads"):
        TransResNetConfig(TEXT, hidden_dim=5, fusion="transformer_sum")
