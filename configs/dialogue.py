"""Responses and rewrites at once (JDDC 2.1, 4.1 and 4.2): one GPT learns to answer and to say what
was meant.

    configs/dialogue.py                                     GPT-2's base size, from scratch
    configs/dialogue.py:size=tiny                           smaller, or larger
    configs/dialogue.py:response=jddc21,rewrite=jddc21/annotated
                                                            datasets of the two tasks
    configs/dialogue.py:response_weight=2                   two responses for each rewrite
    configs/dialogue.py:packed=512                          examples of both share a row
    configs/dialogue.py:weights=FOLDER                      from GPT-2's or CDial-GPT's weights
    configs/dialogue.py:images=resnet-18,image_weights=DIR  with the photos where they occurred

The vocabulary is fitted on the training dialogues of both. What is read ends with the mark of who
answers, or of rewrites, and that tells the network which of the two is asked for. Kept are the
state with the best mean on dev of the BLEU of responses and the share of exact rewrites, and each
task's own best; `--config.mixture.best_of=rewrite` judges, asks or exports that of one task. `init_from=run://DIR`
starts from the weights of another run, also of one of configs/respond.py or configs/rewrite.py,
which in turn may start from this one. A single key is changed with --config.SECTION.KEY=VALUE:
--config.task.rewrite.KEY is as --config.task.KEY of configs/rewrite.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.respond import FINE_TUNED, SIZES, batch_norm, training
from mmjax.config import check_choices, parse_variant
from mmjax.data.images import ImageOptions
from mmjax.decoding.options import DecodingOptions
from mmjax.mixing import MEAN
from mmjax.options import CommonDataOptions, EvalOptions, new_config
from mmjax.tasks.dialogue import DialogueMixture, DialogueOptions
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.mixture import ShareOptions
from mmjax.tasks.response import ResponseOptions
from mmjax.tasks.rewrite import RewriteOptions

TOKENS = 100  # of an example, about, where both are equally often


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `size`: one of SIZES; `response`, `rewrite`: builders of the datasets;
        `response_weight`, `rewrite_weight`: how many examples of one are learned for how many of
        the other; `role`: who answers; `copies`: whether words may be copied from the dialogue;
        `packed`: tokens of rows that examples share; `weights`, `image_weights`: folders or hub ids
        to start from, of the size's network; `images`: network of the photos; `init_from`: a run.
    """
    arg = parse_variant(
        variant,
        size="base",
        response="jddc_pairs",
        rewrite="utterance_rewrite",
        response_weight=1.0,
        rewrite_weight=1.0,
        role="",
        copies=True,
        packed=0,
        weights="",
        images="",
        image_weights="",
        init_from="",
    )
    check_choices(arg, size=SIZES)
    arg.demo = False
    preset, rate = SIZES[arg.size]
    seen = f", {arg.images}" if arg.images else ""
    seen += ", copying" if arg.copies else ""
    learned = "responses and rewrites at once"
    common = {
        "target_max_length": 64,
        "decoding": DecodingOptions(max_new_tokens=64),
        "image": ImageOptions(fit="crop"),
    }
    return new_config(
        label=f"GPT ({arg.size}{'' if arg.weights else ', from scratch'}{seen}), {learned}",
        system="network",
        task_name="dialogue",
        data=CommonDataOptions(),
        mixture=DialogueMixture(
            response=ShareOptions(dataset=arg.response, weight=arg.response_weight),
            rewrite=ShareOptions(dataset=arg.rewrite, weight=arg.rewrite_weight, metric="exact"),
        ),
        task=DialogueOptions(
            response=ResponseOptions(role=arg.role or None, max_length=256, **common),
            rewrite=RewriteOptions(max_length=192, **common),
        ),
        model=ModelOptions(
            text=preset,
            weights=arg.weights or None,
            image=arg.images or None,
            image_weights=arg.image_weights or None,
            batch_norm=batch_norm(arg),
            copies=arg.copies,
            remat="full" if arg.size in ("large", "xl") else "none",
        ),
        **training(arg, FINE_TUNED if arg.weights else rate, epochs=10.0, tokens=TOKENS),
        eval=EvalOptions(every_epochs=1.0, metric=MEAN, batch_size=32, first=False),
    )
