"""Query rewriting (JDDC 2.1, 4.2): what did the customer mean, said so that it stands alone?

    configs/rewrite.py:dataset=utterance_rewrite            GPT-2's base size, from scratch
    configs/rewrite.py:dataset=utterance_rewrite,size=tiny  smaller, or larger
    configs/rewrite.py:weights=FOLDER                       from GPT-2's or CDial-GPT's weights
    configs/rewrite.py:images=resnet-18,image_weights=DIR   with the photos where they occurred
    configs/rewrite.py:packed=512,...                       several examples share a row
    configs/rewrite.py:copies=false                         writes every word anew
    configs/rewrite.py:model=unchanged                      the query itself, to compare with

Rewrites copy nearly all that they say, so that spans of the dialogue may be copied as such. From
scratch there is little to learn the language from, so that what is read is learned as well.
`init_from=run://DIR` starts from the weights of another run, such as one of configs/respond.py. A
single key is changed with --config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from configs.respond import FINE_TUNED, SIZES, batch_norm, training
from mmjax.config import check_choices, check_read, parse_variant
from mmjax.data.images import ImageOptions
from mmjax.decoding.options import DecodingOptions
from mmjax.options import DataOptions, EvalOptions, new_config
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.rewrite import RewriteOptions

# model -> what it reads that the other does not.
MODELS = {
    "gpt": ("size", "weights", "images", "image_weights", "packed", "init_from"),
    "unchanged": (),
}

TOKENS = 60  # of an example, about


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `size`: one of SIZES; `weights`, `image_weights`: folders or
        hub ids to start from, of the size's network; `images`: network of the photos; `dataset`: a
        builder; `copies`: whether words may be copied from the dialogue; `packed`: tokens of rows
        that examples share; `init_from`: a run.
    """
    arg = parse_variant(
        variant,
        model="gpt",
        size="",
        weights="",
        images="",
        image_weights="",
        dataset="jddc21/annotated",
        copies=True,
        packed=0,
        init_from="",
    )
    check_choices(arg, model=MODELS, size=("", *SIZES))
    check_read(arg, MODELS)
    arg.size = arg.size or "base"
    if arg.model == "unchanged":
        return new_config(
            label="the query unchanged",
            system="unchanged",
            task_name="rewrite",
            data=DataOptions(dataset=arg.dataset),
            task=RewriteOptions(),
            eval=EvalOptions(metric="exact"),
        )
    arg.demo = False
    preset, rate = SIZES[arg.size]
    seen = f", {arg.images}" if arg.images else ""
    seen += ", copying" if arg.copies else ""
    recipe = training(arg, FINE_TUNED if arg.weights else rate, epochs=10.0, tokens=TOKENS)
    scratch = not (arg.weights or arg.init_from)
    if scratch:
        averaged = {"schedule": "cosine", "ema_decay": 0.999, "ema_warmup": True}
        recipe["optim"] = dataclasses.replace(recipe["optim"], **averaged)
    return new_config(
        label=f"GPT ({arg.size}{'' if arg.weights else ', from scratch'}{seen})",
        system="network",
        task_name="rewrite",
        data=DataOptions(dataset=arg.dataset),
        task=RewriteOptions(
            max_length=192,
            target_max_length=64,
            decoding=DecodingOptions(max_new_tokens=64),
            image=ImageOptions(fit="crop"),
        ),
        model=ModelOptions(
            text=preset,
            weights=arg.weights or None,
            image=arg.images or None,
            image_weights=arg.image_weights or None,
            batch_norm=batch_norm(arg),
            copies=arg.copies,
            read_weight=0.3 if scratch else 0.0,
            remat="full" if arg.size in ("large", "xl") else "none",
        ),
        **recipe,
        eval=EvalOptions(every_epochs=1.0, metric="exact", batch_size=32, first=False),
    )
