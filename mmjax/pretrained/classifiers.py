"""An encoder with a small head as one of transformers' models for the classification of texts.

Theirs is `W2 tanh(W1 h + b1) + b2` with h [D] the first token's vector and W1 [D, D]. A hidden
layer of fewer than D units is one of D units of which the rest is zero, since tanh(0) = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.pretrained.exported import linear


@dataclass(frozen=True)
class ClassifierForm:
    """Attributes:
    architecture: name of the class.
    prefix: of the encoder's tensors.
    pooler: name of the linear layer W1.
    """

    architecture: str
    prefix: str
    pooler: str


CLASSIFIERS = {
    "bert": ClassifierForm("BertForSequenceClassification", "bert", "bert.pooler.dense"),
    "albert": ClassifierForm("AlbertForSequenceClassification", "albert", "albert.pooler"),
}


def why_no_classifier(model_type: str, width: int, hidden_dim: int, activation: str) -> str | None:
    """What keeps a head from that form, as a clause; None: nothing does."""
    if model_type not in CLASSIFIERS:
        return f"transformers' classifiers of the family {model_type!r} are of another form"
    if activation != "tanh":
        return f"its head has the activation {activation!r}, transformers' has tanh"
    if hidden_dim > width:
        return f"its head has {hidden_dim} hidden units, transformers' has the encoder's {width}"
    return None


def classifier_content(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    hidden: Mapping[str, np.ndarray],
    head: Mapping[str, np.ndarray],
    labels: Sequence[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and tensors of encoder and head together.

    Args:
      config, tensors: of the encoder, see `transformer_content`.
      hidden, head: the two projections, kernel [D, H] and [H, classes], with their biases.
      labels: names of the classes.
    """
    form, width = CLASSIFIERS[config["model_type"]], config["hidden_size"]
    pooler, classifier = linear(hidden, form.pooler), linear(head, "classifier")
    more = width - len(pooler[f"{form.pooler}.bias"])
    pooler = {n: np.pad(x, [(0, more), (0, 0)][: x.ndim]) for n, x in pooler.items()}
    weight = "classifier.weight"
    classifier[weight] = np.pad(classifier[weight], [(0, 0), (0, more)])
    described = {
        **config,
        "architectures": [form.architecture],
        "num_labels": len(labels),
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        # Nothing is dropped before the logits.
        "classifier_dropout": 0.0,
        "classifier_dropout_prob": 0.0,
    }
    encoder = {f"{form.prefix}.{name}": x for name, x in tensors.items()}
    return described, {**encoder, **pooler, **classifier}
