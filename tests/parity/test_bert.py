"""BERT and MiniLM give what `transformers` gives from the same folder."""

from __future__ import annotations

import dataclasses
import functools
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn

from mmjax.data.tokenizers import clip, load_tokenizer
from mmjax.models.transformer import Transformer
from mmjax.pretrained import load_folder, load_transformer, transformer_config
from tests.parity.oracle import assert_exports

# Layers, width, heads, feed-forward, vocabulary, segments.
SIZES = {"one wide layer": (1, 96, 3, 64, 128, 2), "three layers": (3, 32, 4, 80, 97, 3),
         "one head": (2, 24, 1, 24, 300, 1)}  # fmt: skip
SIZE_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("head", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_random_bert_hidden_states(name, head, seed, tmp_path):
    theirs = random_bert(getattr(transformers, head), SIZES[name], seed, tmp_path)
    ids, mask, segments = random_batch(theirs.config, seed)
    expected = torch_hidden(theirs.base_model, ids, mask, segments)
    actual = our_hidden(tmp_path, ids, mask, segments)
    np.testing.assert_allclose(actual[mask], expected[mask], atol=1e-4, rtol=1e-4)


def test_random_bert_gradients(tmp_path):
    theirs = random_bert(transformers.BertModel, SIZES["three layers"], 5, tmp_path)
    ids, mask, segments = random_batch(theirs.config, 5)
    weight = np.random.default_rng(6).normal(size=(*ids.shape, 32)).astype(np.float32)
    weight *= mask[..., None]

    hidden = theirs(**torch_inputs(ids, mask, segments)).last_hidden_state
    (hidden * torch.tensor(weight)).sum().backward()

    model, params = load(tmp_path)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, ids, mask, segments) * weight)

    ours = jax.jit(jax.grad(loss))(params)
    grads = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}

    def check(actual, name, transpose=False):
        expected = grads[name].T if transpose else grads[name]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            np.reshape(actual, expected.shape) / scale, expected / scale, atol=1e-4, err_msg=name
        )

    embeddings = ours["embeddings"]
    check(embeddings["word"]["embedding"][:97], "embeddings.word_embeddings.weight")
    check(embeddings["position"]["table"]["embedding"], "embeddings.position_embeddings.weight")
    check(embeddings["segment"]["embedding"], "embeddings.token_type_embeddings.weight")
    check(embeddings["norm"]["scale"], "embeddings.LayerNorm.weight")
    check(embeddings["norm"]["bias"], "embeddings.LayerNorm.bias")
    for i in range(theirs.config.num_hidden_layers):
        for path, name in (
            ("attention/query", "attention.self.query"),
            ("attention/key", "attention.self.key"),
            ("attention/value", "attention.self.value"),
            ("attention/output", "attention.output.dense"),
            ("feed_forward/up", "intermediate.dense"),
            ("feed_forward/down", "output.dense"),
            ("attention_norm", "attention.output.LayerNorm"),
            ("feed_forward_norm", "output.LayerNorm"),
        ):
            part = functools.reduce(operator.getitem, path.split("/"), ours["layers"])
            name = f"encoder.layer.{i}.{name}"
            weight = part["scale" if "norm" in path else "kernel"][i]
            check(weight, f"{name}.weight", transpose="norm" not in path)
            # A key's bias moves all logits of a row alike: its gradient is zero but for rounding.
            if path != "attention/key":
                check(part["bias"][i], f"{name}.bias")


def test_random_bert_in_bfloat16_stays_within_its_rounding(tmp_path):
    theirs = random_bert(transformers.BertModel, SIZES["three layers"], 3, tmp_path)
    ids, mask, segments = random_batch(theirs.config, 3)
    expected = torch_hidden(theirs, ids, mask, segments)[mask]
    actual = our_hidden(tmp_path, ids, mask, segments, dtype="bfloat16")[mask]
    # 2^-8 is one rounding of a bfloat16; some ten of them follow one another in a layer.
    error = np.abs(actual.astype(np.float32) - expected)
    assert error.mean() < 10 * 2**-8 * np.abs(expected).mean()
    assert error.max() > 0


def test_a_model_goes_back_into_a_folder_that_transformers_reads(tmp_path):
    theirs = random_bert(transformers.BertModel, SIZES["three layers"], 4, tmp_path / "theirs")
    model, params = load(tmp_path / "theirs")
    again = assert_exports(
        model, params, "bert", tmp_path / "theirs", tmp_path / "ours", transformers.BertModel
    )
    batch = random_batch(theirs.config, 4)
    np.testing.assert_array_equal(torch_hidden(again, *batch), torch_hidden(theirs, *batch))


def test_minilm_hidden_states_of_real_text(minilm_folder):
    tokenizer = load_tokenizer(minilm_folder)
    texts = [
        "",
        "I went to the lake with my dog today 😀 do you want to see?",
        "我今天和狗去了湖边",
        "word " * 300,
    ]
    rows = [clip(tokenizer.encode(t), 128, tokenizer.cls_id, tokenizer.sep_id) for t in texts]
    ids = np.zeros((len(rows), 128), np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    mask = np.arange(128) < np.array([len(r) for r in rows])[:, None]
    segments = np.zeros_like(ids)
    segments[1, 5:] = 1
    theirs = transformers.BertModel.from_pretrained(minilm_folder)
    expected = torch_hidden(theirs, ids, mask, segments)
    actual = our_hidden(minilm_folder, ids, mask, segments)
    np.testing.assert_allclose(actual[mask], expected[mask], atol=1e-4)


def random_bert(kind: type, sizes: tuple[int, ...], seed: int, folder: Path) -> torch.nn.Module:
    """A BERT saved into `folder` whose weights make every detail of the computation count.

    Large layer weights reach the bends of the GELU and sharp attention; small embeddings make
    the norm's epsilon visible; no bias is zero and no norm's scale is one.
    """
    config = transformers.BertConfig(
        **dict(zip(SIZE_KEYS, sizes, strict=True)), max_position_embeddings=20
    )
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif "embeddings." in name and name.endswith("weight"):
                parameter.copy_(0.01 * noise)
            else:
                parameter.copy_(0.3 * noise)
    model.save_pretrained(folder)
    return model


def random_batch(config: transformers.BertConfig, seed: int):
    rng = np.random.default_rng(seed)
    # Not 0, the padding's id: PyTorch gives its row no gradient.
    ids = rng.integers(1, config.vocab_size, (4, 20)).astype(np.int32)
    mask = np.arange(20) < np.array([20, 13, 5, 1])[:, None]
    segments = rng.integers(0, config.type_vocab_size, ids.shape).astype(np.int32)
    return ids, mask, segments


def load(folder: Path, dtype: str = "float32"):
    folder = load_folder(folder)
    config = dataclasses.replace(transformer_config(folder), dtype=dtype)
    model = Transformer(config)
    shape = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    boxed = jax.eval_shape(model.init, jax.random.key(0), shape, shape.update(dtype=bool))
    params, report = load_transformer(folder, nn.unbox(boxed)["params"])
    assert not report.initialised
    return model, params


def our_hidden(folder: Path, ids, mask, segments, dtype: str = "float32") -> np.ndarray:
    model, params = load(folder, dtype)
    return np.asarray(jax.jit(model.apply)({"params": params}, ids, mask, segments))


def torch_hidden(model: torch.nn.Module, ids, mask, segments) -> np.ndarray:
    with torch.no_grad():
        return model(**torch_inputs(ids, mask, segments)).last_hidden_state.numpy()


def torch_inputs(ids, mask, segments) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor(ids).long(),
        "attention_mask": torch.tensor(mask).long(),
        "token_type_ids": torch.tensor(segments).long(),
    }
