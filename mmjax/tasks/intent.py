"""Photo-sharing intent: after which turn of a dialogue is a photo shared? (PhotoChat, task A)

An encoder with a small head learns it, or an encoder-decoder that answers in words.
"""

from __future__ import annotations

from mmjax.models.presets import ENCODER_DECODER_PRESETS
from mmjax.tasks.intent_encoder import EncoderIntentTask
from mmjax.tasks.intent_examples import IntentOptions
from mmjax.tasks.intent_task import IntentTask
from mmjax.tasks.intent_text import TextToTextIntentTask
from mmjax.tasks.text_classifier import ModelOptions
from mmjax.tasks.towers import FROM_FOLDER, open_weights


def intent_task(options: IntentOptions, model: ModelOptions) -> IntentTask:
    """The task in the form that the network needs."""
    answers = model.text in ENCODER_DECODER_PRESETS
    if model.text == FROM_FOLDER and model.weights is not None:
        answers = bool(open_weights(model.weights).config.get("is_encoder_decoder"))
    return (TextToTextIntentTask if answers else EncoderIntentTask)(options, model)


OPTIONS, MODEL_OPTIONS, TASK = IntentOptions, ModelOptions, intent_task

__all__ = ["IntentOptions", "IntentTask", "ModelOptions", "intent_task"]
