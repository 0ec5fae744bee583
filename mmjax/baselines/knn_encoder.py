"""What k-NN looks for neighbours with: pretrained encoders of texts and photos, as they came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from mmjax.errors import UserError
from mmjax.models.image_tower import ImageTowerConfig
from mmjax.models.mean_pooled import MeanPooled, MeanPooledConfig
from mmjax.models.transformer import TransformerConfig
from mmjax.pretrained.images import load_image_tower
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.base import Predictor
from mmjax.tasks.context_reader import IMAGE
from mmjax.tasks.response_ranking import RankingExamples, RankingOptions
from mmjax.tasks.towers import FROM_FOLDER, image_tower, open_weights, text_tower


class PretrainedEncoderTask(RankingExamples):
    """The examples of response ranking, seen by networks that are not trained.

    Its tokenizer is loaded by who makes it.
    """

    def __init__(self, options: RankingOptions, weights: str | None, image_weights: str | None):
        """
        Args:
          weights: folder or hub id of the encoder of texts; None: they are not read.
          image_weights: the same of photos.
        """
        super().__init__(options)
        self.weights, self._image_weights = open_weights(weights), open_weights(image_weights)

    def __getstate__(self) -> dict[str, Any]:
        """For processes that make examples: they need no weights."""
        return {**self.__dict__, "weights": None, "_image_weights": None}

    def module(self) -> MeanPooled:
        return MeanPooled(MeanPooledConfig(self._text(), self._image()))

    def predictors(self) -> Mapping[str, Predictor]:
        """ "text": [B, D]; "image": {"vector": [B, D], "present": bool [B]}, of the last photo."""
        module = self.module()

        def text(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch, method="embed_text")

        def image(variables: Any, batch: Any) -> dict[str, jax.Array]:
            vector = module.apply(variables, batch, method="embed_image")
            return {"vector": vector, "present": batch["has_image"]}

        return {"text": Predictor(text, ("context",)), "image": Predictor(image, IMAGE[:2])}

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        found, reports = jax.tree.map(lambda _: None, target), {}
        if self.weights is not None:
            loaded = load_transformer(self.weights, target["params"]["text_tower"])
            found["params"]["text_tower"], reports["text_tower"] = loaded
        if self._image_weights is not None:
            tower = {name: target[name]["image_tower"] for name in target}
            loaded, reports["image_tower"] = load_image_tower(
                self._image_weights, self._image(), tower
            )
            for name, tree in loaded.items():
                found[name]["image_tower"] = tree
        return found, reports

    def _text(self) -> TransformerConfig | None:
        if self.weights is None:
            return None
        text = text_tower("text", FROM_FOLDER, self.weights, self._reader.tokenizer)
        longest = self.options.context_max_length
        if text.position is not None and longest > text.position.max_positions:
            raise UserError(
                f"config.task.context_max_length={longest} is more than the "
                f"{text.position.max_positions} positions of config.knn.encoder."
            )
        return text

    def _image(self) -> ImageTowerConfig | None:
        if self._image_weights is None:
            return None
        return image_tower("image", FROM_FOLDER, self._image_weights, batch_norm="frozen")
