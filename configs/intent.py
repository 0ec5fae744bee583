"""Photo-sharing intent (PhotoChat, task A): after which turn of a dialogue is a photo shared?

    configs/intent.py:weights=FOLDER                  the paper's BERT-base, from its weights
    configs/intent.py:model=albert,weights=FOLDER     ALBERT-base
    configs/intent.py:model=t5,weights=FOLDER         T5-base, asked in words; or size=3b
    configs/intent.py:text=minilm,weights=FOLDER      MiniLM: small and quick
    configs/intent.py:prefix=shared,...               a dialogue is read once, and scored throughout
    configs/intent.py:packed=512,...                  several texts share a row of 512 tokens
    configs/intent.py:demo                            a small one on generated dialogues, in minutes

`init_from=run://DIR` starts from the weights of another run. A single key is changed with
--config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

from types import SimpleNamespace

from ml_collections import ConfigDict

from mmjax.config import check_choices, parse_variant
from mmjax.errors import UserError
from mmjax.optim.build import OptimOptions
from mmjax.options import (
    DataOptions,
    EvalOptions,
    MeshOptions,
    ObserveOptions,
    TrainOptions,
    new_config,
)
from mmjax.tasks.intent import IntentOptions, ModelOptions

# model -> name in tables, size -> preset
MODELS = {
    "bert": ("BERT", {"base": "bert-base", "tiny": "bert-tiny"}),
    "albert": ("ALBERT", {"base": "albert-base", "large": "albert-large"}),
    "t5": (
        "T5",
        {"small": "t5-small", "base": "t5-base", "large": "t5-large", "3b": "t5-3b"},
    ),
}
RECIPES = ("", "minilm")
PREFIXES = ("separate", "shared")

# Of a dialogue every turn is an example; where it is read once, it is one for all of its turns.
TURNS_PER_DIALOGUE = 8

# Tokens of an example in PhotoChat, about.
TOKENS = {"separate": 56, "shared": 92}

# Examples that are sorted by length and dealt out to batches: enough for little padding where
# dialogues have their whole length, and where long ones are cut.
WINDOW, SHORT_WINDOW = 8192, 2048

SLICE = "v5e:2x2"  # what batches of 32 rows, of four dialogues, and of packed rows, divide by
CHIPS = 4


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `size`: of it; `weights`: folder or hub id to start from;
        `text=minilm`: another encoder, with a recipe of its own; `prefix`: one of PREFIXES;
        `packed`: tokens of rows that examples share, about as many examples in a batch as without;
        `dataset`: a builder; `init_from`: a run; `demo`: a small model, trained in minutes on
        generated dialogues unless a dataset is named.
    """
    arg = parse_variant(
        variant,
        model="bert",
        size="base",
        text="",
        weights="",
        prefix="separate",
        packed=0,
        dataset="",
        init_from="",
        demo=False,
    )
    check_choices(arg, model=MODELS, text=RECIPES, prefix=PREFIXES)
    check_choices(arg, size=MODELS[arg.model][1])
    if arg.model != "bert" and (arg.demo or arg.text):
        raise UserError(f"variant model={arg.model} does not go with demo or text=minilm.")
    arg.dataset = arg.dataset or ("photochat/demo" if arg.demo else "photochat")
    if arg.demo:
        return _demo(arg)
    if arg.text == "minilm":
        return _minilm(arg)
    return _t5(arg) if arg.model == "t5" else _paper(arg)


def _paper(arg: SimpleNamespace) -> ConfigDict:
    """[CLS], 128, 2; what the paper leaves open as BERT's authors fine-tune it."""
    return _config(
        arg,
        task=IntentOptions(prefix=arg.prefix),
        model=ModelOptions(text=MODELS[arg.model][1][arg.size], weights=arg.weights or None),
        mesh=MeshOptions(slice=SLICE),
        optim=OptimOptions(
            learning_rate=2e-5, eps=1e-6, bias_correction=False, warmup_fraction=0.1
        ),
        batch_size=32,
        epochs=3.0,
        eval=EvalOptions(every_epochs=1.0, metric="f1"),
    )


def _t5(arg: SimpleNamespace) -> ConfigDict:
    """Adafactor at a constant 1e-3, as T5's authors fine-tune it; the largest on a larger slice."""
    large = arg.size == "3b"
    return _config(
        arg,
        task=IntentOptions(prefix=arg.prefix),
        model=ModelOptions(
            text=MODELS["t5"][1][arg.size],
            weights=arg.weights or None,
            remat="full" if large else "none",
        ),
        mesh=MeshOptions(fsdp=8, slice="v3:4x4") if large else MeshOptions(slice=SLICE),
        optim=OptimOptions(
            name="adafactor", learning_rate=1e-3, schedule="constant", clip_norm=None
        ),
        batch_size=32,
        epochs=3.0,
        eval=EvalOptions(every_epochs=1.0, metric="f1"),
    )


def _minilm(arg: SimpleNamespace) -> ConfigDict:
    """On the last 126 tokens: an hour or less on two cores.

    One epoch of all prefixes, or two of dialogues that are read once and so cost a quarter. Turns
    before a share count twice, so that argmax decides near to where the best threshold does.
    """
    if not arg.weights:
        raise UserError(
            "text=minilm needs its weights: configs/intent.py:text=minilm,weights=FOLDER, a "
            "Hugging Face folder or hub id such as sentence-transformers/all-MiniLM-L6-v2."
        )
    epochs, between = (2.0, 1.0) if arg.prefix == "shared" else (1.0, 0.5)
    return _config(
        arg,
        name="MiniLM-L6",
        task=IntentOptions(prefix=arg.prefix, max_length=128, positive_weight=2.0),
        # Not unrolled: a program per length is compiled, and each in a fraction of the time.
        model=ModelOptions(text="minilm-l6", weights=arg.weights),
        mesh=MeshOptions(slice=SLICE),
        optim=OptimOptions(learning_rate=1e-4, warmup_fraction=0.06),
        batch_size=64,
        window=SHORT_WINDOW,
        epochs=epochs,
        eval=EvalOptions(every_epochs=between, metric="f1", first=False),
    )


def _demo(arg: SimpleNamespace) -> ConfigDict:
    """From scratch on generated dialogues: two cores and a few minutes."""
    return _config(
        arg,
        name="tiny, from scratch",
        task=IntentOptions(prefix=arg.prefix, max_length=128),
        model=ModelOptions(
            text="bert-tiny", weights=arg.weights or None, vocab_size=2000, unroll=0
        ),
        optim=OptimOptions(learning_rate=1e-3, warmup_fraction=0.1),
        batch_size=64,
        window=SHORT_WINDOW,
        epochs=3.0,
        eval=EvalOptions(every_epochs=1.0, metric="f1"),
        observe=ObserveOptions(log_every_steps=20),
    )


def _config(
    arg: SimpleNamespace,
    *,
    batch_size: int,
    epochs: float,
    name: str = "",
    window: int = WINDOW,
    **sections: object,
) -> ConfigDict:
    name = name or f"{MODELS[arg.model][0]}-{arg.size.upper() if arg.size == '3b' else arg.size}"
    shared = arg.prefix == "shared"
    rows = TURNS_PER_DIALOGUE if shared else 1
    batch_size = max(1, batch_size // rows)
    window = max(1, window // rows // batch_size)
    if arg.packed:
        packed_rows = batch_size * TOKENS[arg.prefix] / arg.packed
        batch_size, window = CHIPS * max(1, round(packed_rows / CHIPS)), 1
    return new_config(
        label=f"{name}, read once" if shared else name,
        system="network",
        task_name="intent",
        data=DataOptions(dataset=arg.dataset),
        train=TrainOptions(
            global_batch_size=batch_size,
            length_window=window,
            packed_length=arg.packed or None,
            total_epochs=epochs,
            init_from=arg.init_from or None,
        ),
        **sections,
    )
