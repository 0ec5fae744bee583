"""Every family whose folders are read and written, by `model_type`."""

from __future__ import annotations

from mmjax.pretrained.bert import ALBERT, BERT
from mmjax.pretrained.clip import CLIP, CLIP_TEXT, CLIP_VISION
from mmjax.pretrained.family import Family
from mmjax.pretrained.gpt2 import GPT, GPT2
from mmjax.pretrained.t5 import MT5, T5
from mmjax.pretrained.vit import VIT

FAMILIES: dict[str, tuple[Family, ...]] = {
    "bert": (BERT,),
    "albert": (ALBERT,),
    "gpt2": (GPT2,),
    "openai-gpt": (GPT,),
    "t5": (T5,),
    "mt5": (MT5,),
    "vit": (VIT,),
    # A folder of both towers also serves who wants one of them.
    "clip": (CLIP, CLIP_TEXT, CLIP_VISION),
    "clip_text_model": (CLIP_TEXT,),
    "clip_vision_model": (CLIP_VISION,),
}
