"""VSE++ in photo retrieval: a GRU reads the query, a ResNet sees the photo."""

from __future__ import annotations

from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.models.gru import GruConfig
from mmjax.models.vse import Vse, VseConfig
from mmjax.tasks.retrieval_examples import RetrievalOptions
from mmjax.tasks.retrieval_model import GRU, ModelOptions, RetrievalModel


class VseModel(RetrievalModel):
    """One vector of the text, one of the photo, and their dot product."""

    candidates = ("pixels",)

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        super().__init__(options, model)
        if model.text != GRU:
            raise UserError(
                f"config.model.kind=vsepp reads with a GRU, not with {model.text}: set "
                "config.model.text=gru, or config.model.kind=dual_encoder."
            )

    def module(self, tokenizer: Tokenizer) -> Vse:
        model = self.model
        text = GruConfig(tokenizer.vocab_size, model.word_dim, self.width(), dtype=model.dtype)
        return Vse(VseConfig(text, self.image_config()))
