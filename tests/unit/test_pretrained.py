"""What reading a pretrained folder promises: the right numbers, or words about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from mmjax.errors import UserError
from mmjax.models.transformer import Transformer
from mmjax.pretrained import load_folder, load_transformer, transformer_config

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 20,
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2,
}

LINEARS = {
    "attention.self.query": (8, 8),
    "attention.self.key": (8, 8),
    "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8),
    "intermediate.dense": (12, 8),
    "output.dense": (8, 12),
}


def bert_tensors(dtype=np.float32) -> dict[str, np.ndarray]:
    """Random tensors under the names and shapes of a BertModel's state dict."""
    shapes = {
        "embeddings.word_embeddings.weight": (20, 8),
        "embeddings.position_embeddings.weight": (6, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "embeddings.LayerNorm.weight": (8,),
        "embeddings.LayerNorm.bias": (8,),
        "pooler.dense.weight": (8, 8),
        "pooler.dense.bias": (8,),
    }
    for i in range(2):
        for name, shape in LINEARS.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (8,)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (8,)
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def write(folder: Path, tensors=None, config=None) -> Path:
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    save_file(tensors or bert_tensors(), folder / "model.safetensors")
    return folder


def load(path: Path, change=None):
    folder = load_folder(path)
    shape = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    model = Transformer(transformer_config(folder))
    boxed = jax.eval_shape(model.init, jax.random.key(0), shape, shape.update(dtype=bool))
    target = nn.unbox(boxed)["params"]
    if change is not None:
        change(target)
    return load_transformer(folder, target)


def test_every_tensor_lands_where_it_belongs(tmp_path):
    tensors = bert_tensors()
    params, report = load(write(tmp_path, tensors))
    layer = "encoder.layer.1."
    attention = params["layers"]["attention"]
    word = np.asarray(params["embeddings"]["word"]["embedding"])
    np.testing.assert_array_equal(word[:20], tensors["embeddings.word_embeddings.weight"])
    assert word.shape == (128, 8) and not word[20:].any()
    for part in ("query", "key", "value"):
        weight = tensors[f"{layer}attention.self.{part}.weight"]
        # A row of their matrix makes one output: head h, place k, from all inputs.
        kernel = np.asarray(attention[part]["kernel"])[1]
        assert kernel.shape == (8, 2, 4)
        np.testing.assert_array_equal(kernel[:, 1, 2], weight[1 * 4 + 2])
        bias = tensors[f"{layer}attention.self.{part}.bias"]
        np.testing.assert_array_equal(attention[part]["bias"][1], bias.reshape(2, 4))
    output = np.asarray(attention["output"]["kernel"])[1]
    expected = tensors[f"{layer}attention.output.dense.weight"]
    np.testing.assert_array_equal(output[1, 2], expected[:, 1 * 4 + 2])
    up = params["layers"]["feed_forward"]["up"]["kernel"][1]
    np.testing.assert_array_equal(up, tensors[f"{layer}intermediate.dense.weight"].T)
    assert report.initialised == []
    assert report.left_over == ["pooler.dense.bias", "pooler.dense.weight"]
    assert len(report.loaded) == len(jax.tree.leaves(params)) == 21


def renamed(prefix: str, old_norm: bool) -> dict[str, np.ndarray]:
    tensors = {prefix + name: tensor for name, tensor in bert_tensors().items()}
    tensors[prefix + "embeddings.position_ids"] = np.arange(6)[None]
    if prefix:
        tensors["cls.predictions.bias"] = np.zeros(20, np.float32)
    if old_norm:
        new = ("LayerNorm.weight", "LayerNorm.bias")
        old = ("LayerNorm.gamma", "LayerNorm.beta")
        for a, b in zip(new, old, strict=True):
            tensors = {name.replace(a, b): tensor for name, tensor in tensors.items()}
    return tensors


@pytest.mark.parametrize("old_norm", [False, True])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_prefixed_and_old_names_load_the_same(prefix, old_norm, tmp_path):
    expected, _ = load(write(tmp_path))
    actual, report = load(write(tmp_path, renamed(prefix, old_norm)))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    left = [f"{prefix}pooler.dense.bias", f"{prefix}pooler.dense.weight"]
    assert report.left_over == left + (["cls.predictions.bias"] if prefix else [])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_become_float32(dtype, tmp_path):
    tensors = bert_tensors(dtype)
    params, _ = load(write(tmp_path, tensors))
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    expected = tensors["embeddings.LayerNorm.bias"].astype(np.float32)
    np.testing.assert_array_equal(params["embeddings"]["norm"]["bias"], expected)


def test_shards_are_put_together(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected, _ = load(write(tmp_path / "one"))
    tensors = bert_tensors()
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / "two" / file)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "two" / "config.json").write_text(json.dumps(CONFIG))
    index = tmp_path / "two" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    actual, _ = load(tmp_path / "two")
    jax.tree.map(np.testing.assert_array_equal, actual, expected)

    (tmp_path / "two" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-00002-of-00002"):
        load_folder(tmp_path / "two")


def test_what_the_folder_lacks_is_reported_and_left_empty(tmp_path):
    tensors = bert_tensors()
    del tensors["embeddings.token_type_embeddings.weight"]
    params, report = load(write(tmp_path, tensors))
    assert params["embeddings"]["segment"]["embedding"] is None
    assert report.initialised == ["embeddings/segment/embedding"]
    text = str(report)
    assert "embeddings/segment/embedding" in text and "pooler.dense.bias" in text
    assert "loaded" in text and " 20" in text


def test_the_config_is_read_as_written(tmp_path):
    config = transformer_config(load_folder(write(tmp_path)))
    assert (config.vocab_size, config.padded_vocab_size) == (20, 128)
    assert (config.layers, config.width, config.segments) == (2, 8, 2)
    assert (config.attention.heads, config.attention.head_dim) == (2, 4)
    assert (config.dropout, config.attention.dropout) == (0.1, 0.2)
    assert config.norm.epsilon == 1e-12
    assert config.position.max_positions == 6
    assert (config.feed_forward.width, config.feed_forward.activation) == (12, "gelu")


def another_shape(target):
    target["layers"]["feed_forward"]["up"]["kernel"] = jax.ShapeDtypeStruct((2, 8, 13), jnp.float32)


def another_vocabulary(target):
    target["embeddings"]["word"]["embedding"] = jax.ShapeDtypeStruct((256, 8), jnp.float32)


def with_layers(n):
    def change(target):
        layers = jax.tree.map(lambda s: s.update(shape=(n, *s.shape[1:])), target["layers"])
        target["layers"] = layers

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_shape, r"layers/feed_forward/up/kernel needs \(13, 8\)"),
        (another_vocabulary, r"embeddings/word/embedding needs \(256, 8\)"),
        (with_layers(3), "2 of 3 layers of layers/"),
        (with_layers(1), "more than 1 layers of layers/"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_by_name(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path), change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; supported: bert, albert, gpt2"),
        ({"model_type": "t5"}, "model_type is 't5'; supported: bert, albert, gpt2"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; supported: gelu, gelu_new"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 3}, "does not divide among 3 heads"),
        ({"hidden_size": "wide"}, "describes no model"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(change, message, tmp_path):
    folder = load_folder(write(tmp_path, config=CONFIG | change))
    with pytest.raises(UserError, match=message):
        transformer_config(folder)


@pytest.mark.parametrize("key", [key for key in CONFIG if key != "model_type"])
def test_a_missing_config_key_is_named(key, tmp_path):
    config = {k: v for k, v in CONFIG.items() if k != key}
    with pytest.raises(UserError, match=f"config.json has no key '{key}'"):
        transformer_config(load_folder(write(tmp_path, config=config)))


def test_a_folder_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none of the model's parameters.*wte"):
        load(write(tmp_path, {"wte": np.zeros((2, 2), np.float32)}))


def test_pickled_weights_are_refused_with_the_remedy(tmp_path):
    write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*safe_serialization=True"):
        load_folder(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights_are_refused(keep, tmp_path):
    file = write(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_folder(tmp_path)


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match="holds no weights"):
        load_folder(tmp_path)


def test_weights_of_two_models_are_not_mixed(tmp_path):
    file = write(tmp_path) / "model.safetensors"
    save_file(load_file(file), tmp_path / "a.safetensors")
    file.rename(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="2 safetensors files"):
        load_folder(tmp_path)


def test_a_hub_that_cannot_be_reached_is_a_user_error(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find the requested files")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"owner/name.*network"):
        load_folder("owner/name")


def test_a_hub_id_fetches_no_pickle(monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def snapshot(hub_id, allow_patterns):
        asked.update(hub_id=hub_id, patterns=allow_patterns)
        return str(write(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_folder("owner/name").path == tmp_path
    assert asked["hub_id"] == "owner/name"
    assert not [p for p in asked["patterns"] if "bin" in p or "pt" in p or p == "*"]
