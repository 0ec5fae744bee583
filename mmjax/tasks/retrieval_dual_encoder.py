"""The dual encoder of photo retrieval (PhotoChat, 5.2): DE_label, DE_img, DE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.pretrained.exported import ModelFolder
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.retrieval_examples import RetrievalOptions
from mmjax.tasks.retrieval_export import dual_encoder_folders
from mmjax.tasks.retrieval_model import ModelOptions, RetrievalModel
from mmjax.tasks.towers import FROM_FOLDER, open_weights


class DualEncoderModel(RetrievalModel):
    """One vector of the text, one of the photo, and their dot product."""

    candidates = ("labels", "pixels", "both")

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        super().__init__(options, model)
        if model.label_weights and (model.shared or not model.weights):
            raise UserError(
                "config.model.label_weights needs config.model.weights and shared=False."
            )
        if self.sees and model.joint_dim is None:
            raise UserError("config.model.joint_dim must have a value where pixels are seen.")
        self.label_weights = open_weights(model.label_weights)

    def module(self, tokenizer: Tokenizer) -> DualEncoder:
        model = self.model
        query = self.text_config(tokenizer)
        labels = query if self.reads else None
        if self.reads and not model.shared and (model.labels or self.label_weights):
            preset = model.labels or FROM_FOLDER
            labels = self.transformer(
                "labels", preset, "label_weights", self.label_weights, tokenizer
            )
        if model.shared and model.labels not in (None, model.text):
            raise UserError(
                f"config.model.shared=True needs one kind of tower, but text={model.text!r} and "
                f"labels={model.labels!r}."
            )
        return DualEncoder(
            DualEncoderConfig(
                query=query,
                labels=labels,
                image=self.image_config(),
                shared=model.shared,
                pooling=model.pooling,
                joint_dim=model.joint_dim,
                logit_scale=model.logit_scale,
                learn_scale=model.learn_scale,
                logit_bias=model.logit_bias,
            )
        )

    def exports(self, variables: Any, tokenizer: Tokenizer) -> Sequence[ModelFolder]:
        config = self.module(tokenizer).config
        return dual_encoder_folders(config, variables, tokenizer, self.options)

    def initial_variables(self, target: Any) -> tuple[Any, dict[str, Any]]:
        found, reports = super().initial_variables(target)
        if "label_tower" in target["params"]:
            folder = self.label_weights or (None if self.model.labels else self.weights)
            if folder is not None:
                loaded = load_transformer(folder, target["params"]["label_tower"])
                found["params"]["label_tower"], reports["label_tower"] = loaded
        return found, reports
