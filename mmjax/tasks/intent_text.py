"""Photo-sharing intent as text to text: T5 is asked and answers "1" or "0" (PhotoChat, 5.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.decoding.generate import generate
from mmjax.decoding.generator import generator
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError
from mmjax.evaluators import TurnEvaluator
from mmjax.losses.cross_entropy import cross_entropy
from mmjax.losses.objective import LocalTerm, Objective
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.text_to_text import TextToText, TextToTextConfig
from mmjax.pretrained.exported import ModelFolder
from mmjax.pretrained.loading import load_transformer
from mmjax.tasks.base import Predictor
from mmjax.tasks.intent_examples import ANSWERS, IntentOptions, IntentTexts
from mmjax.tasks.intent_export import text_to_text_folders
from mmjax.tasks.intent_task import IntentTask
from mmjax.tasks.text_classifier import ModelOptions
from mmjax.tasks.towers import encoder_decoder


class TextToTextIntentTask(IntentTask):
    """The score compares the two answers; what is written word by word is judged beside it."""

    reader = IntentTexts
    inputs = IntentTask.inputs - {"speakers"}

    def __init__(self, options: IntentOptions, model: ModelOptions):
        if options.prefix != "separate":
            raise UserError(
                f'config.task.prefix="{options.prefix}" needs an encoder: a text-to-text model '
                'answers once per text. Set prefix="separate", or choose another model.'
            )
        super().__init__(options, model)

    def module(self) -> TextToText:
        model, tokenizer = self.model, self._examples.tokenizer
        network = encoder_decoder(
            "text",
            model.text,
            self._weights,
            tokenizer,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            attention=model.attention,
            dtype=model.dtype,
            unroll=model.unroll,
            remat=model.remat,
        )
        answers = tuple((*map(int, tokenizer.encode(a)), tokenizer.eos_id) for a in ANSWERS)
        if answers[0] == answers[1]:
            raise UserError(
                f"the tokenizer makes the same tokens of the answers {ANSWERS[0]!r} and "
                f"{ANSWERS[1]!r}: name a config.model.weights folder whose vocabulary has digits."
            )
        return TextToText(TextToTextConfig(network, answers, tokenizer.decoder_start_id))

    def objective(self) -> Objective:
        table, mask = (jnp.asarray(x) for x in self.module().config.table)

        def loss(outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            """Mean over the answers' tokens; `positive_weight` weighs those of a yes."""
            label = batch["label"]["ids"][:, 0]
            weight = batch["weight"] * jnp.array([1.0, self.options.positive_weight])[label]
            return cross_entropy(
                outputs["logits"],
                table[label],
                mask[label] * weight[:, None],
                focal_gamma=self.options.focal_gamma,
            )

        return Objective([LocalTerm("intent", loss)])

    def predictors(self) -> Mapping[str, Predictor]:
        """Of "share": log-odds of the answers; of "written": whether a yes is decoded; [B, 1]."""
        module = self.module()

        def share(variables: Any, batch: Any) -> jax.Array:
            return module.apply(variables, batch, method=TextToText.log_odds)[:, None]

        table, mask = (jnp.asarray(x) for x in module.config.table)
        options = DecodingOptions(max_new_tokens=table.shape[1])
        tokens = self._examples.tokenizer

        def written(variables: Any, batch: Any) -> jax.Array:
            first = jnp.full((len(batch["text"]["ids"]), 1), module.config.start, jnp.int32)
            model = generator(module, variables, batch, first, jnp.ones(first.shape, bool))
            ends = {"eos_id": tokens.eos_id, "pad_id": tokens.pad_id}
            ids = generate(model, options, **ends).ids[:, 0]  # [B, K]
            return ((ids == table[1]) | ~mask[1]).all(axis=-1, keepdims=True)

        return {"share": Predictor(share, ("text",)), "written": Predictor(written, ("text",))}

    def evaluator(self) -> TurnEvaluator:
        return dataclasses.replace(super().evaluator(), decided="written")

    def exports(self, variables: Any, chosen: Mapping[str, float]) -> Sequence[ModelFolder]:
        return text_to_text_folders(
            self.module().config,
            variables["params"],
            self._examples.tokenizer,
            self.options,
            chosen,
        )

    def initial_variables(self, target: Any) -> tuple[Any, Mapping[str, Any]]:
        found, reports = super().initial_variables(target)
        if self._weights is not None:
            loaded = load_transformer(
                self._weights, target["params"]["model"], EncoderDecoderConfig
            )
            found["params"]["model"], reports["model"] = loaded
        return found, reports
