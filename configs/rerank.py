"""A closer look at the photos that a retriever proposes (PhotoChat, task B, in two stages).

    configs/rerank.py:candidates=run://DIR,weights=FOLDER               BERT-base
    configs/rerank.py:candidates=run://DIR,text=minilm,weights=FOLDER   MiniLM
    configs/rerank.py:candidates=run://DIR,demo                         a small one, from scratch

DIR is any finished run of configs/retrieval.py on the same dataset, which has answered the splits:

    python -m mmjax.main --config=... --workdir=DIR --mode=predict --split=train --top=50

and the same for dev and test; training in rounds of as many photos as those have, which is the
default (`config.task.train_pool` of that run). A single key is changed with
--config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from mmjax.config import check_choices, parse_variant
from mmjax.optim.build import OptimOptions
from mmjax.options import (
    DataOptions,
    EvalOptions,
    MeshOptions,
    ObserveOptions,
    TrainOptions,
    new_config,
)
from mmjax.tasks.rerank import RerankOptions
from mmjax.tasks.text_classifier import ModelOptions

NAMES = {"bert": "BERT", "minilm": "MiniLM-L6"}
PRESETS = {"bert": "bert-base", "minilm": "minilm-l6"}

# Examples that are sorted by length and dealt out to batches: little padding.
WINDOW = 2048


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `candidates`: run or folder that proposes; `text`: one of NAMES; `weights`: folder or
        hub id to start from; `query`: whose turns ask; `dataset`: a builder; `init_from`: a run;
        `demo`: a small model for generated dialogues.
    """
    arg = parse_variant(
        variant,
        candidates="",
        text="bert",
        weights="",
        query="sharer",
        dataset="",
        init_from="",
        demo=False,
    )
    check_choices(arg, text=NAMES)
    name = "tiny, from scratch" if arg.demo else NAMES[arg.text]
    batch_size = 64 if arg.demo or arg.text == "minilm" else 32
    rate = {"bert": 2e-5, "minilm": 5e-5}[arg.text]
    return new_config(
        label=f"cross-encoder ({name}), top 50",
        system="network",
        task_name="rerank",
        data=DataOptions(dataset=arg.dataset or ("photochat/demo" if arg.demo else "photochat")),
        task=RerankOptions(candidates=arg.candidates, query="both" if arg.demo else arg.query),
        model=ModelOptions(
            text="bert-tiny" if arg.demo else PRESETS[arg.text],
            weights=arg.weights or None,
            vocab_size=2000 if arg.demo else 8000,
        ),
        optim=OptimOptions(learning_rate=1e-3 if arg.demo else rate, warmup_fraction=0.1),
        train=TrainOptions(
            global_batch_size=batch_size,
            length_window=WINDOW // batch_size,
            total_epochs=1.0,
            init_from=arg.init_from or None,
        ),
        eval=EvalOptions(every_epochs=0.5, first=False),
        mesh=MeshOptions(slice=None if arg.demo else "v5e:2x2"),
        observe=ObserveOptions(log_every_steps=20),
    )
