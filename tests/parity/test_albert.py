"""ALBERT gives what `transformers` gives from the same folder, and goes back into one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForMaskedLM, AlbertModel

from mmjax.models.transformer import TransformerConfig
from tests.parity.oracle import (
    apply,
    assert_exports,
    assert_near_in_bfloat16,
    load,
    random_model,
    texts,
    to_torch,
)

SIZES = {
    "vocab_size": 97,
    "embedding_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
SMALL = AlbertConfig(**SIZES)
# Wider tables than layers, and the exact gelu.
OTHER = AlbertConfig(**SIZES | {"hidden_size": 12, "hidden_act": "gelu", "type_vocab_size": 3})


def segments(ids: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2, ids.shape).astype(np.int32)


def hidden(theirs: torch.nn.Module, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return theirs.base_model(*to_torch(ids, mask, segments(ids))).last_hidden_state.numpy()


@pytest.mark.parametrize(("head", "config"), [(AlbertModel, SMALL), (AlbertForMaskedLM, OTHER)])
def test_hidden_states(head, config, tmp_path):
    theirs = random_model(head, config, 0, tmp_path)
    ids, mask = texts(97, 0)
    model, params = load(tmp_path, TransformerConfig, ids, mask)
    actual = apply(model, params, ids, mask, segments(ids))
    np.testing.assert_allclose(actual[mask], hidden(theirs, ids, mask)[mask], atol=1e-5)
    width = config.hidden_size
    assert params["layers"]["attention"]["query"]["kernel"].shape == (width, 4, width // 4)


def test_bfloat16(tmp_path):
    theirs = random_model(AlbertModel, SMALL, 1, tmp_path)
    ids, mask = texts(97, 1)
    model, params = load(tmp_path, TransformerConfig, ids, mask, dtype="bfloat16")
    actual = apply(model, params, ids, mask, segments(ids))
    assert_near_in_bfloat16(actual[mask], hidden(theirs, ids, mask)[mask], layers=3)


def test_export(tmp_path):
    theirs = random_model(AlbertModel, SMALL, 2, tmp_path / "theirs")
    ids, mask = texts(97, 2)
    model, params = load(tmp_path / "theirs", TransformerConfig, ids, mask)
    again = assert_exports(
        model, params, "albert", tmp_path / "theirs", tmp_path / "ours", AlbertModel
    )
    np.testing.assert_array_equal(hidden(again, ids, mask), hidden(theirs, ids, mask))
