"""The configs whose shardings and compiled costs are kept in golden files, by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.config import to_dict

GOLDEN = Path(__file__).parent / "golden"

_MINILM = "text=minilm,weights=sentence-transformers/all-MiniLM-L6-v2"


@dataclasses.dataclass(frozen=True)
class Case:
    """Attributes:
    config: as after --config=.
    slice: None: what the config names.
    overrides: "section.key" -> value, as --config.section.key=value.
    """

    config: str
    slice: str | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The config as plain values."""
        file, _, variant = self.config.partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        config = to_dict(module.get_config(variant))
        for key, value in self.overrides.items():
            section, _, name = key.partition(".")
            config[section][name] = value
        return config

    def command(self) -> str:
        """What shows the same as a page."""
        flags = [f"--config.{key}={value}" for key, value in self.overrides.items()]
        topology = [f"--topology={self.slice}"] if self.slice else []
        line = ["python -m mmjax.main", f"--config={self.config}", "--mode=check"]
        return " ".join([*line, *topology, *flags])


CASES: dict[str, Case] = {
    "retrieval-demo": Case("configs/retrieval.py:demo,model=de_label", "v5e:2x2"),
    "retrieval-de": Case("configs/retrieval.py"),
    "retrieval-de_label": Case(f"configs/retrieval.py:model=de_label,{_MINILM}"),
    "retrieval-vsepp": Case("configs/retrieval.py:model=vsepp,image=resnet-50"),
    "retrieval-scan": Case("configs/retrieval.py:model=scan"),
    "intent-bert": Case("configs/intent.py"),
    "intent-bert-shared": Case("configs/intent.py:prefix=shared"),
    "intent-albert": Case("configs/intent.py:model=albert"),
    "intent-t5": Case("configs/intent.py:model=t5"),
    "intent-t5-3b": Case("configs/intent.py:model=t5,size=3b"),
    "respond": Case("configs/respond.py"),
    "respond-images": Case("configs/respond.py:images=resnet-18"),
    "rewrite": Case("configs/rewrite.py"),
    "dialogue": Case("configs/dialogue.py"),
    "respond-transresnet": Case("configs/respond.py:model=transresnet"),
    "rewritable": Case("configs/rewritable.py"),
    "rerank": Case(f"configs/rerank.py:candidates=run://runs/bm25,{_MINILM}"),
}

# What networks cost at sizes for which no config is written.
SIZES: dict[str, Case] = {
    "intent-tiny": Case(
        "configs/intent.py:demo", "v5e:2x2", {"model.unroll": 1, "task.max_length": 32}
    ),
    "contrastive-32768": Case(
        f"configs/retrieval.py:model=de_label,{_MINILM}",
        "v5e:16x16",
        {
            "train.global_batch_size": 32768,
            "eval.batch_size": 32768,
            "model.dtype": "bfloat16",
            "model.unroll": 1,
        },
    ),
    "intent-t5-3b-v5p": Case("configs/intent.py:model=t5,size=3b", "v5p:4x4x4", {"mesh.tensor": 2}),
    "intent-t5-3b-plain": Case(
        "configs/intent.py:model=t5,size=3b",
        "v3:4x4",
        {"mesh.data": 32, "mesh.fsdp": 1, "model.remat": "none"},
    ),
}
