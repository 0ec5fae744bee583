"""SCAN in photo retrieval: the words of the query look for regions of the photo, or these for them.

The regions come with the photos (`config.task.candidate=regions`), or are the cells of the grid
that a network of the pixels gives (`pixels`), or the dataset's boxes in it, and the whole photo
(`boxes`).
"""

from __future__ import annotations

from mmjax.data.tokenizers import Tokenizer
from mmjax.models.gru import GruConfig
from mmjax.models.scan import Scan, ScanConfig
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.tasks.retrieval_examples import RetrievalOptions
from mmjax.tasks.retrieval_model import GRU, ModelOptions, RetrievalModel


class ScanModel(RetrievalModel):
    """A vector of each word and of each region, and the attention between them.

    The words' encoder is a GRU, as in the paper, or a transformer.
    """

    candidates = ("regions", "pixels", "boxes")
    # A pair has a number for every word and region: so many pairs of 64 and 36 are 2 MiB.
    tile = (16, 16)
    block = (16, 64)

    def __init__(self, options: RetrievalOptions, model: ModelOptions):
        super().__init__(options, model)
        scan = model.scan
        self.score = StackedCrossAttention(
            scan.direction, scan.pooling, scan.smoothing, scan.lse_smoothing
        )

    def module(self, tokenizer: Tokenizer) -> Scan:
        model, width = self.model, self.width()
        if model.text == GRU:
            text = GruConfig(tokenizer.vocab_size, model.word_dim, width, True, model.dtype)
        else:
            text = self.text_config(tokenizer)
        boxes = self.options.candidate == "boxes"
        return Scan(ScanConfig(text, self.image_config(), width, model.dtype, boxes))
