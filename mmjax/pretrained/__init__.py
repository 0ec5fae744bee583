"""Pretrained weights in Hugging Face's folder format."""

from mmjax.pretrained.folder import PretrainedFolder, load_folder
from mmjax.pretrained.loading import LoadReport, load_transformer, transformer_config
from mmjax.pretrained.resnet import export_resnet, load_resnet, resnet_config
from mmjax.pretrained.writing import export_transformer

__all__ = [
    "LoadReport",
    "PretrainedFolder",
    "export_resnet",
    "export_transformer",
    "load_folder",
    "load_resnet",
    "load_transformer",
    "resnet_config",
    "transformer_config",
]
