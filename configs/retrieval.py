"""Photo retrieval (PhotoChat, task B): which photo does a dialogue lead up to?

    configs/retrieval.py                              the paper's dual encoder on object labels
    configs/retrieval.py:demo                         a small one on generated dialogues, in minutes
    configs/retrieval.py:text=minilm,weights=FOLDER   from MiniLM's weights, as in the results table
    configs/retrieval.py:model=bm25                   BM25

A single key is changed with --config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from mmjax.baselines.bm25_system import Bm25Options
from mmjax.config import (
    DataOptions,
    EvalOptions,
    ObserveOptions,
    TrainOptions,
    new_config,
    parse_variant,
    suggestion,
)
from mmjax.errors import UserError
from mmjax.optim.build import OptimOptions
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions

MODELS = ("de_label", "bm25")
TEXTS = {"bert": "bert-base", "bert-tiny": "bert-tiny", "minilm": "minilm-l6"}


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `text`: one of TEXTS; `weights`: folder or hub id of the
        text encoder; `dataset`: a builder; `demo`: a small model, trained in minutes on generated
        dialogues unless a dataset is named.
    """
    arg = parse_variant(variant, model="de_label", text="bert", weights="", dataset="", demo=False)
    for name, choices in (("model", MODELS), ("text", TEXTS)):
        value = getattr(arg, name)
        if value not in choices:
            near = suggestion(value, choices)
            raise UserError(f"variant {name}={value!r} of the config does not exist{near}.")
    default = "photochat/demo" if arg.demo else "photochat"
    data = DataOptions(dataset=arg.dataset or default)
    if arg.model == "bm25":
        return new_config(
            label="BM25",
            system="bm25",
            task_name="retrieval",
            data=data,
            task=RetrievalOptions(query="both"),
            bm25=Bm25Options(),
        )
    if arg.demo:
        return _demo(data)
    if arg.text == "minilm":
        return _minilm(data, arg.weights)
    return _paper(data, TEXTS[arg.text], arg.weights)


def _paper(data: DataOptions, text: str, weights: str) -> ConfigDict:
    """DE_label as the paper trains it: two towers of BERT, CLS, 512 wide, softmax without scale."""
    return new_config(
        label=f"DE_label ({text}), CE",
        system="network",
        task_name="retrieval",
        data=data,
        task=RetrievalOptions(),
        model=ModelOptions(text=text, weights=weights or None, vocab_size=8000),
        optim=OptimOptions(name="adam", learning_rate=5e-5, schedule="staircase", clip_norm=None),
        train=TrainOptions(global_batch_size=128, total_epochs=10.0),
        eval=EvalOptions(every_epochs=1.0),
    )


def _minilm(data: DataOptions, weights: str) -> ConfigDict:
    """One MiniLM for both sides, averaged tokens, a scale of 20: small, quick, and strong."""
    if not weights:
        raise UserError(
            "text=minilm needs its weights: configs/retrieval.py:text=minilm,weights=FOLDER, a "
            "Hugging Face folder or hub id such as sentence-transformers/all-MiniLM-L6-v2."
        )
    return new_config(
        label="DE_label (MiniLM-L6), CE",
        system="network",
        task_name="retrieval",
        data=data,
        task=RetrievalOptions(query_max_length=64, label_max_length=32),
        model=ModelOptions(
            text="minilm-l6",
            weights=weights,
            shared=True,
            pooling="mean",
            joint_dim=None,
            logit_scale=20.0,
            unroll=0,
        ),
        optim=OptimOptions(learning_rate=5e-5, warmup_fraction=0.1),
        train=TrainOptions(global_batch_size=128, total_epochs=3.0),
        eval=EvalOptions(every_epochs=1.0),
    )


def _demo(data: DataOptions) -> ConfigDict:
    """From scratch on generated dialogues: two cores and a few minutes."""
    return new_config(
        label="DE_label (tiny, from scratch), CE",
        system="network",
        task_name="retrieval",
        data=data,
        task=RetrievalOptions(query="both", query_max_length=128, label_max_length=32),
        model=ModelOptions(
            text="bert-tiny",
            pooling="mean",
            joint_dim=128,
            logit_scale=20.0,
            vocab_size=2000,
            unroll=0,
        ),
        optim=OptimOptions(learning_rate=1e-3, warmup_fraction=0.1),
        train=TrainOptions(global_batch_size=64, total_epochs=10.0),
        eval=EvalOptions(every_epochs=2.0),
        observe=ObserveOptions(log_every_steps=20),
    )
