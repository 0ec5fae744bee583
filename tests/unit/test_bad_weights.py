"""A folder of weights that does not fit is told of when the task is made, before any data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmjax.errors import UserError
from mmjax.tasks.intent import IntentOptions, ModelOptions, intent_task
from tests.unit.test_pretrained import CONFIG, bert_tensors, load

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "friend")


def weights(folder: Path, tokens: tuple[str, ...] = TOKENS, **config: Any) -> Path:
    """A tiny BERT with a tokenizer; `config`: keys of config.json, None leaves one out."""
    keys = {name: value for name, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(keys))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    save_file(bert_tensors(), folder / "model.safetensors")
    return folder


def intent(folder: Path, max_length: int = 6) -> Any:
    model = ModelOptions(text="weights", weights=str(folder))
    return intent_task(IntentOptions(max_length=max_length), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; supported: bert, albert"),
        ({"model_type": None}, "model_type is None; supported"),
        ({"hidden_size": None}, "no key 'hidden_size'"),
        ({"tokens": (*TOKENS, *map(str, range(200)))}, "206 tokens.*do not belong together"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_task_is_made(change, message, tmp_path):
    intent(weights(tmp_path))
    with pytest.raises(UserError, match=message):
        intent(weights(tmp_path, **change))


def test_texts_beyond_the_positions_are_refused_when_the_task_is_made(tmp_path):
    with pytest.raises(UserError, match=r"7.*6\s+positions"):
        intent(weights(tmp_path), max_length=7)


def test_a_folder_without_a_tokenizer_is_refused_when_the_task_is_made(tmp_path):
    weights(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        intent(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(value, tmp_path):
    name = "encoder.layer.1.output.dense.weight"
    tensors = bert_tensors()
    tensors[name][0, 3] = value
    weights(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{name} holds values that are no numbers"):
        load(tmp_path)
