"""The files with which sentence-transformers makes vectors of texts from an encoder's folder.

`modules.json` lists what is applied one after another: the encoder, pooling, a linear layer, and
scaling to length 1; what has sizes has a folder with its config.json. Reimers and Gurevych 2019.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from mmjax.pretrained.exported import linear

PACKAGE = "sentence_transformers.models"


def sentence_files(
    *,
    width: int,
    pooling: str,
    max_length: int,
    head: Mapping[str, np.ndarray] | None = None,
    unit_length: bool = True,
) -> dict[str, bytes]:
    """The files by their path.

    Args:
      width: of the encoder's vectors.
      pooling: "cls" or "mean".
      max_length: tokens of a text.
      head: a projection of the pooled vector, {"kernel": [D, J], "bias": [J]}; None: there is none.
      unit_length: whether the result is scaled to length 1.
    """
    modules, files = [("", "Transformer")], {}

    def add(kind: str) -> str:
        modules.append((f"{len(modules)}_{kind}", kind))
        return modules[-1][0]

    files["sentence_bert_config.json"] = _json({"max_seq_length": max_length})
    files[f"{add('Pooling')}/config.json"] = _json(
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        }
    )
    if head is not None:
        folder, tensors = add("Dense"), linear(head, "linear")
        joint, inputs = tensors["linear.weight"].shape
        files[f"{folder}/config.json"] = _json(
            {
                "in_features": inputs,
                "out_features": joint,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
        )
        files[f"{folder}/model.safetensors"] = save(tensors, metadata={"format": "pt"})
    if unit_length:
        add("Normalize")
    files["modules.json"] = _json(
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ]
    )
    return files


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
