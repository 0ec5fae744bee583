"""What the comparisons with `transformers` share: weights that matter, and both sides' models."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from safetensors.numpy import load_file

from mmjax.models.clip import Clip, ClipConfig
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from mmjax.models.stack import StackConfig
from mmjax.models.transformer import Transformer, TransformerConfig
from mmjax.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from mmjax.pretrained import export_transformer, load_folder, load_transformer, transformer_config

MODULES = {
    TransformerConfig: Transformer,
    EncoderDecoderConfig: EncoderDecoder,
    VisionTransformerConfig: VisionTransformer,
    ClipConfig: Clip,
}
NORM = re.compile(r"(norm|ln_\w+|layernorm_\w+)\.weight$", re.IGNORECASE)
LENGTHS = np.array([16, 11, 5, 1])


def random_model(kind: type, config: Any, seed: int, folder: Path) -> torch.nn.Module:
    """A model saved into `folder` whose weights make every detail of the computation count.

    Large weights reach the bends of the activation and sharp attention; no bias is zero and no
    norm's scale is one.
    """
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if NORM.search(name) else 0.3 * noise)
    model.save_pretrained(folder)
    return model


def texts(vocab_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of texts of different lengths; never 0, whose row PyTorch gives no gradient."""
    ids = np.random.default_rng(seed).integers(1, vocab_size, (len(LENGTHS), LENGTHS.max()))
    return ids.astype(np.int32), np.arange(LENGTHS.max()) < LENGTHS[:, None]


def to_torch(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(a) if a.dtype == np.float32 else torch.tensor(a).long() for a in arrays]


def load(folder: Path, kind: type, *inputs: np.ndarray, dtype: str = "float32") -> tuple[Any, Any]:
    """Our model and its parameters of a folder, all of which the folder must have."""
    opened = load_folder(folder)
    config = with_dtype(transformer_config(opened, kind), dtype)
    model = MODULES[kind](config)
    boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    params, report = load_transformer(opened, nn.unbox(boxed)["params"], kind)
    assert not report.initialised
    return model, params


def with_dtype(config: Any, dtype: str) -> Any:
    if isinstance(config, StackConfig):
        return dataclasses.replace(config, dtype=dtype)
    towers = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    towers = {k: with_dtype(v, dtype) for k, v in towers.items() if isinstance(v, StackConfig)}
    return dataclasses.replace(config, **towers)


def apply(model: Any, params: Any, *inputs: np.ndarray) -> Any:
    return jax.tree.map(np.asarray, jax.jit(model.apply)({"params": params}, *inputs))


def assert_near_in_bfloat16(actual: np.ndarray, expected: np.ndarray, layers: int) -> None:
    """Within what rounding to 8 bits does: some ten of them follow one another in a layer."""
    assert actual.dtype in (jnp.bfloat16, np.float32)
    error = np.abs(actual.astype(np.float32) - expected)
    assert 0 < error.mean() < 10 * layers * 2**-8 * np.abs(expected).mean()


def assert_gradients_equal(
    theirs: torch.nn.Module, ours: Any, config: Any, model_type: str, folder: Path
) -> None:
    """Each of their parameters' gradients is ours, relative to its largest value.

    Ours are brought to their names and shapes as weights are.
    """
    export_transformer(config, ours, folder, model_type)
    actual = load_file(folder / "model.safetensors")
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None}
    assert len(set(actual) & set(expected)) == len(actual)
    for name, gradient in actual.items():
        scale = np.abs(expected[name]).max()
        # A key's bias moves all logits of a row alike: its gradient is zero but for rounding.
        scale = max(scale, 1e-2 * max(np.abs(g).max() for g in expected.values()))
        np.testing.assert_allclose(
            gradient / scale, expected[name] / scale, atol=1e-4, err_msg=name
        )


def assert_exports(
    model: Any, params: Any, model_type: str, original: Path, folder: Path, kind: type
) -> torch.nn.Module:
    """Writes the model into `folder`; returns what `transformers` makes of it.

    Its tensors must be the original folder's, but for heads that we do not read.
    """
    export_transformer(model.config, params, folder, model_type)
    expected = load_file(original / "model.safetensors")
    actual = load_file(folder / "model.safetensors")
    for name, tensor in actual.items():
        np.testing.assert_array_equal(tensor, expected.pop(name), err_msg=name)
    assert not [name for name in expected if "pooler" not in name]
    loaded, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not [name for name in report["missing_keys"] if "pooler" not in name]
    assert not report["unexpected_keys"]
    return loaded.eval()
