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
    base: the case that this one stands beside; change: what is different here.
    """

    config: str
    slice: str | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None
    change: str = ""

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
    "respond-xl": Case(
        "configs/respond.py:size=xl,packed=1024",
        "v5e:2x4",
        {
            "mesh.data": 2,
            "mesh.fsdp": 4,
            "train.global_batch_size": 16,
            "eval.batch_size": 16,
            "model.vocab_size": 50257,
            "model.dtype": "bfloat16",
            "model.attention_dropout": 0.0,
            "model.attention": "fused",
            "optim.mu_dtype": "bfloat16",
        },
    ),
}


def _beside(base: str, changes: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Adds cases that differ from one in what their name says."""
    case = {**CASES, **SIZES}[base]
    for name, (change, overrides) in changes.items():
        SIZES[f"{base}-{name}"] = dataclasses.replace(
            case, overrides={**case.overrides, **overrides}, base=base, change=change
        )


_NO_FSDP = {"mesh.data": -1, "mesh.fsdp": 1}
_BFLOAT16_ADAM = {"optim.name": "adamw", "optim.mu_dtype": "bfloat16"}

_beside(
    "intent-t5-3b",
    {
        "remat-none": ("all activations kept", {"model.remat": "none"}),
        "remat-dots": ("matrix products kept", {"model.remat": "dots"}),
        "adam": ("AdamW, moments in float32", {"optim.name": "adamw"}),
        "adam-bfloat16": ("AdamW, first moment in bfloat16", _BFLOAT16_ADAM),
        "undropped": (
            "attention without dropout",
            {"model.attention_dropout": 0.0, "model.attention": "plain"},
        ),
        "fused": ("the same, fused", {"model.attention_dropout": 0.0}),
        "fsdp-32": ("fsdp over both axes of the torus", {"mesh.data": 1, "mesh.fsdp": 32}),
        "plain": ("neither fsdp nor recomputation", {**_NO_FSDP, "model.remat": "none"}),
    },
)
_beside(
    "intent-t5-3b-v5p",
    {"plain": ("neither fsdp nor recomputation", {**_NO_FSDP, "model.remat": "none"})},
)
_beside("respond", {"unrolled": ("layers one after another", {"model.unroll": 0})})
_beside(
    "respond-xl",
    {
        "remat-none": ("all activations kept", {"model.remat": "none"}),
        "remat-dots": ("matrix products kept", {"model.remat": "dots"}),
        "dense": ("the whole vocabulary's scores at once", {"model.loss_block": 1024}),
        "attention": ("plain attention", {"model.attention": "plain"}),
        "float32": ("computed in float32", {"model.dtype": "float32"}),
        "adam": ("both moments in float32", {"optim.mu_dtype": "float32"}),
        "adafactor": ("Adafactor", {"optim.name": "adafactor", "optim.mu_dtype": "float32"}),
        "fsdp-1": ("no fsdp", _NO_FSDP),
        "plain": (
            "plain attention, all activations kept, the vocabulary's scores at once, moments in "
            "float32, no fsdp",
            {
                "model.attention": "plain",
                "model.remat": "none",
                "model.loss_block": 1024,
                "optim.mu_dtype": "float32",
                **_NO_FSDP,
            },
        ),
    },
)
