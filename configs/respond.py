"""Response generation (JDDC 2.1, 4.1): what does the agent answer?

    configs/respond.py:dataset=jddc_pairs                   GPT-2's base size, from scratch
    configs/respond.py:dataset=jddc_pairs,size=tiny         smaller, or larger: one of SIZES
    configs/respond.py:weights=FOLDER                       from GPT-2's or CDial-GPT's weights
    configs/respond.py:images=resnet-18,image_weights=DIR   with the photos where they occurred
    configs/respond.py:demo                                 a small one on generated dialogues

`init_from=run://DIR` starts from the weights of another run; `role=customer` learns the other side
of datasets that tell roles. A single key is changed with --config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

from types import SimpleNamespace

from ml_collections import ConfigDict

from mmjax.config import (
    DataOptions,
    EvalOptions,
    MeshOptions,
    ObserveOptions,
    TrainOptions,
    check_choices,
    new_config,
    parse_variant,
)
from mmjax.data.images import ImageOptions
from mmjax.decoding.options import DecodingOptions
from mmjax.optim.build import OptimOptions
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.response import ResponseOptions

MODELS = ("gpt",)

# size -> preset, and how fast one learns that begins from scratch.
SIZES = {
    "tiny": ("gpt2-tiny", 1e-3),
    "small": ("gpt2-6x512", 5e-4),
    "base": ("gpt2-small", 3e-4),
    "medium": ("gpt2-medium", 3e-4),
    "large": ("gpt2-large", 2e-4),
    "xl": ("gpt2-xl", 1e-4),
}
FINE_TUNED = 5e-5  # from weights: CDial-GPT's (Wang et al. 2020, 4.2)

# Examples that are sorted by length and dealt out to batches: little padding.
WINDOW = 2048


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `size`: one of SIZES; `weights`, `image_weights`: folders or
        hub ids to start from, of the size's network; `images`: network of the photos; `dataset`: a
        builder; `role`: who answers; `init_from`: a run; `demo`: a small model for generated
        dialogues.
    """
    arg = parse_variant(
        variant,
        model="gpt",
        size="",
        weights="",
        images="",
        image_weights="",
        dataset="",
        role="",
        init_from="",
        demo=False,
    )
    arg.size = arg.size or ("tiny" if arg.demo else "base")
    check_choices(arg, model=MODELS, size=SIZES)
    return _gpt(arg)


def _gpt(arg: SimpleNamespace) -> ConfigDict:
    preset, rate = SIZES[arg.size]
    seen = f", {arg.images}" if arg.images else ""
    size = 64 if arg.demo else 224
    task = ResponseOptions(
        role=arg.role or None,
        max_length=96 if arg.demo else 256,
        target_max_length=32 if arg.demo else 64,
        decoding=DecodingOptions(max_new_tokens=32 if arg.demo else 64),
        image=ImageOptions(size=size, fit="crop"),
    )
    return new_config(
        label=f"GPT ({arg.size}{'' if arg.weights else ', from scratch'}{seen})",
        system="network",
        task_name="response",
        data=DataOptions(dataset=arg.dataset or ("photochat/demo" if arg.demo else "jddc21")),
        task=task,
        model=ModelOptions(
            text=preset,
            weights=arg.weights or None,
            image=arg.images or None,
            image_weights=arg.image_weights or None,
            vocab_size=2000 if arg.demo else 8000,
            remat="full" if arg.size in ("large", "xl") else "none",
        ),
        **training(arg, FINE_TUNED if arg.weights else rate, epochs=2.0 if arg.demo else 10.0),
        eval=EvalOptions(every_epochs=1.0, metric="bleu", batch_size=32, first=False),
    )


def training(arg: SimpleNamespace, rate: float, *, epochs: float, batch_size: int = 32) -> dict:
    """The sections of how a GPT is trained, from scratch or from weights."""
    return {
        "optim": OptimOptions(
            learning_rate=rate, weight_decay=0.01, warmup_fraction=0.05, clip_norm=1.0
        ),
        "train": TrainOptions(
            global_batch_size=batch_size,
            length_window=WINDOW // batch_size,
            total_epochs=epochs,
            init_from=arg.init_from or None,
        ),
        "mesh": MeshOptions(slice=None if arg.demo else "v5e:2x2"),
        "observe": ObserveOptions(log_every_steps=20),
    }
