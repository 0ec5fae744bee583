"""Photo-sharing intent learned by an encoder with a small head (PhotoChat, 5.1: BERT, ALBERT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.data.featurize import Ragged
from mmjax.data.packing import Packing
from mmjax.losses.objective import Objective
from mmjax.models.turn_classifier import TurnClassifier
from mmjax.pretrained.exported import ModelFolder
from mmjax.tasks.base import Predictor
from mmjax.tasks.intent_examples import IntentExamples
from mmjax.tasks.intent_export import encoder_folders
from mmjax.tasks.intent_task import IntentTask
from mmjax.tasks.text_classifier import (
    classifier_objective,
    load_text_classifier,
    text_classifier,
)


class EncoderIntentTask(IntentTask):
    """Logits are read from [CLS], or from the [SEP] of each turn."""

    reader = IntentExamples
    packs = True

    def packing(self, row_length: int) -> Packing:
        # As many places as tokens, most of them padding: what is read there costs next to nothing,
        # and all batches have one shape.
        ragged = {name: Ragged(own.pad, (row_length,)) for name, own in self.ragged.items()}
        return Packing({"text": row_length}, ragged, positions=("place",))

    def module(self) -> TurnClassifier:
        return text_classifier(
            self.model,
            self._weights,
            self._examples.tokenizer,
            max_length=self.options.max_length,
        )

    def objective(self) -> Objective:
        options = self.options
        return classifier_objective("intent", options.positive_weight, options.focal_gamma)

    def predictors(self) -> Mapping[str, Predictor]:
        """Of "share": log-odds that a photo follows, [B, places], padded to the most there are."""
        module, width = self.module(), self.most_places

        def share(variables: Any, batch: Any) -> jax.Array:
            logits = module.apply(variables, batch, train=False)["logits"]  # [B, T, 2]
            odds = logits[..., 1] - logits[..., 0]
            return jnp.pad(odds, ((0, 0), (0, width - odds.shape[1])))

        return {"share": Predictor(share, (*self._examples.token_features, "place"))}

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        return encoder_folders(
            self.module().config,
            variables["params"],
            self._examples.tokenizer,
            self.options,
            chosen,
        )

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        found, reports = super().initial_variables(target)
        return found, {**reports, **load_text_classifier(self._weights, found, target)}
