"""Pretrained weights in Hugging Face's folder format."""

from mmjax.pretrained.folder import PretrainedFolder, load_folder
from mmjax.pretrained.loading import LoadReport, load_transformer, transformer_config

__all__ = [
    "LoadReport",
    "PretrainedFolder",
    "load_folder",
    "load_transformer",
    "transformer_config",
]
