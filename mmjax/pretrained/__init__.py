"""Pretrained weights in Hugging Face's folder format."""

from mmjax.pretrained.folder import PretrainedFolder, load_folder
from mmjax.pretrained.images import export_image_tower, image_config, load_image_tower
from mmjax.pretrained.loading import LoadReport, load_transformer, transformer_config
from mmjax.pretrained.writing import export_transformer

__all__ = [
    "LoadReport",
    "PretrainedFolder",
    "export_image_tower",
    "export_transformer",
    "image_config",
    "load_folder",
    "load_image_tower",
    "load_transformer",
    "transformer_config",
]
