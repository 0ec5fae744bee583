"""Every family whose folders are read and written, by `model_type`."""

from __future__ import annotations

from mmjax.pretrained.bert import ALBERT, BERT
from mmjax.pretrained.family import Family

FAMILIES: dict[str, tuple[Family, ...]] = {
    "bert": (BERT,),
    "albert": (ALBERT,),
}
