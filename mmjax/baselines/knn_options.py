"""What a config may say of k-NN."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mmjax.config import limited


@dataclasses.dataclass(frozen=True)
class KnnOptions:
    """Attributes:
    encoder: Hugging Face folder or hub id of an encoder of texts (BERT, MiniLM), whose last layer
      is averaged over the tokens, special ones too; or "run://DIR" of a TransResNet, whose vectors
      of contexts are taken.
    ranker: "run://DIR" of a TransResNet, which chooses among the responses; None: the nearest
      context's response is the answer.
    distance: "l2", or "inner_product", of which more is nearer.
    top: contexts whose responses are candidates.
    image_top: the same by the photo; where `task.images` is set.
    image_weights: Hugging Face folder or hub id of the network whose pooled features compare photos
      (in the paper ResNet-18).
    """

    encoder: str = ""
    ranker: str | None = None
    distance: Literal["l2", "inner_product"] = "l2"
    top: int = limited(40, low=1)
    image_top: int = limited(10, low=0)
    image_weights: str | None = None
