"""Can a query be rewritten so that it stands alone? (JDDC 2.1, 4.2)

    configs/rewritable.py:weights=FOLDER                     BERT-base, from its weights
    configs/rewritable.py:model=transresnet                  TransResNet, from scratch
    configs/rewritable.py:model=transresnet,init_from=run://DIR
                                                             from one that ranks responses
    configs/rewritable.py:model=transresnet,images,image_weights=FOLDER
                                                             with the last photo

Datasets are those in which annotators also said no: jddc21/annotated. A single key is changed with
--config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

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
from mmjax.tasks.rewritable import RewritableModelOptions, RewritableOptions

# model -> kind of network, preset of its text, learning rate.
MODELS = {
    "bert": ("encoder", "bert-base", 2e-5),
    "transresnet": ("trans_resnet", "transresnet", 5e-4),
}


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `weights`, `image_weights`: folder or hub id to start from;
        `images`: the last photo is seen; `dataset`: a builder; `init_from`: a run.
    """
    arg = parse_variant(
        variant,
        model="bert",
        weights="",
        images=False,
        image_weights="",
        dataset="jddc21/annotated",
        init_from="",
    )
    check_choices(arg, model=MODELS)
    kind, preset, rate = MODELS[arg.model]
    if arg.images and kind == "encoder":
        raise UserError("variant images needs model=transresnet: BERT sees none.")
    seen = ", resnet-18" if arg.images else ""
    # What comes with weights is kept; from scratch there is nothing to keep.
    kept = arg.images and bool(arg.image_weights or arg.init_from)
    names = {"bert": "BERT-base", "transresnet": f"TransResNet{seen}"}
    return new_config(
        label=f"{names[arg.model]}, can it be rewritten",
        system="network",
        task_name="rewritable",
        data=DataOptions(dataset=arg.dataset),
        task=RewritableOptions(images=arg.images),
        model=RewritableModelOptions(
            kind=kind,
            text=preset,
            weights=arg.weights or None,
            image_weights=arg.image_weights or None,
            batch_norm="frozen" if kept else "global",
        ),
        optim=OptimOptions(
            learning_rate=rate,
            warmup_fraction=0.1,
            frozen=("^image_tower/",) if kept else (),
        ),
        train=TrainOptions(
            global_batch_size=32,
            length_window=64,
            total_epochs=3.0,
            init_from=arg.init_from or None,
        ),
        eval=EvalOptions(every_epochs=1.0, metric="f1@weighted", first=False),
        mesh=MeshOptions(slice="v5e:2x2"),
        observe=ObserveOptions(log_every_steps=20),
    )
