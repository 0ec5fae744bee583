"""Response generation (JDDC 2.1, 4.1): what does the agent answer?

    configs/respond.py:dataset=jddc_pairs                   GPT-2's base size, from scratch
    configs/respond.py:dataset=jddc_pairs,size=tiny         smaller, or larger: one of SIZES
    configs/respond.py:weights=FOLDER                       from GPT-2's or CDial-GPT's weights
    configs/respond.py:images=resnet-18,image_weights=DIR   with the photos where they occurred
    configs/respond.py:knowledge,...                        with what is known of the products
    configs/respond.py:packed=512,...                       several examples share a row
    configs/respond.py:slots,dataset=photo_sessions,images=resnet-18
                                                            does the photo decide what is said?
    configs/respond.py:demo                                 a small one on generated dialogues
    configs/respond.py:model=transresnet,dataset=jddc_pairs ranks people's responses; images=... too
    configs/respond.py:model=knn,encoder=FOLDER,ranker=run://DIR,dataset=jddc_pairs
                                                            the best of those that people gave where
                                                            something alike was said, by a BERT in
                                                            FOLDER; DIR: of a model=transresnet

`init_from=run://DIR` starts from the weights of another run; `role=customer` learns the other side
of datasets that tell roles. A single key is changed with --config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

from types import SimpleNamespace

from ml_collections import ConfigDict

from mmjax.baselines.knn_options import KnnOptions
from mmjax.config import check_choices, check_read, parse_variant
from mmjax.data.images import ImageOptions
from mmjax.decoding.options import DecodingOptions
from mmjax.optim.build import OptimOptions
from mmjax.options import (
    DataOptions,
    EvalOptions,
    LoaderOptions,
    MeshOptions,
    ObserveOptions,
    TrainOptions,
    new_config,
)
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.response import ResponseOptions
from mmjax.tasks.response_ranking import RankingOptions
from mmjax.tasks.trans_resnet_model import TransResNetOptions

# model -> what it reads that not all others do.
MODELS = {
    "gpt": ("size", "weights", "packed", "slots", "knowledge", "init_from"),
    "transresnet": ("weights", "init_from"),
    "knn": ("encoder", "ranker"),
}

# size -> preset, and how fast one learns that begins from scratch.
SIZES = {
    "tiny": ("gpt2-tiny", 1e-3),
    "mini": ("gpt2-4x256", 1e-3),
    "small": ("gpt2-6x512", 5e-4),
    "base": ("gpt2-small", 3e-4),
    "medium": ("gpt2-medium", 3e-4),
    "large": ("gpt2-large", 2e-4),
    "xl": ("gpt2-xl", 1e-4),
}
FINE_TUNED = 5e-5  # from weights: CDial-GPT's (Wang et al. 2020, 4.2)

# Examples that are sorted by length and dealt out to batches: little padding.
WINDOW = 2048

TOKENS = 150  # of an example, about
SLICE = "v5e:2x2"  # what batches divide by
CHIPS = 4


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `size`: one of SIZES; `weights`, `image_weights`: folders or
        hub ids to start from, of the size's network; `images`: network of the photos; `encoder`,
        `ranker`: of model=knn, see `KnnOptions`; `dataset`: a builder; `role`: who answers;
        `packed`: tokens of rows that examples share; `slots`: also judged by what of photos answers
        name; `knowledge`: the products' attributes are read too; `init_from`: a run; `demo`: a
        small model for generated dialogues.
    """
    arg = parse_variant(
        variant,
        model="gpt",
        size="",
        weights="",
        images="",
        image_weights="",
        encoder="",
        ranker="",
        dataset="",
        role="",
        packed=0,
        slots=False,
        knowledge=False,
        init_from="",
        demo=False,
    )
    check_choices(arg, model=MODELS, size=("", *SIZES))
    check_read(arg, MODELS)
    arg.size = arg.size or ("tiny" if arg.demo else "base")
    arg.dataset = arg.dataset or ("photochat/demo" if arg.demo else "jddc21")
    return {"gpt": _gpt, "transresnet": _transresnet, "knn": _knn}[arg.model](arg)


def _gpt(arg: SimpleNamespace) -> ConfigDict:
    preset, rate = SIZES[arg.size]
    seen = f", {arg.images}" if arg.images else ""
    seen += ", told of the products" if arg.knowledge else ""
    size = 64 if arg.demo else 224
    task = ResponseOptions(
        role=arg.role or None,
        max_length=(192 if arg.knowledge else 96) if arg.demo else 256,
        target_max_length=32 if arg.demo else 64,
        decoding=DecodingOptions(max_new_tokens=32 if arg.demo else 64),
        image=ImageOptions(size=size, fit="crop"),
        slots=arg.slots,
        knowledge=arg.knowledge,
    )
    return new_config(
        label=f"GPT ({arg.size}{'' if arg.weights else ', from scratch'}{seen})",
        system="network",
        task_name="response",
        data=DataOptions(dataset=arg.dataset),
        task=task,
        model=ModelOptions(
            text=preset,
            weights=arg.weights or None,
            image=arg.images or None,
            image_weights=arg.image_weights or None,
            batch_norm=batch_norm(arg),
            vocab_size=2000 if arg.demo else 8000,
            remat="full" if arg.size in ("large", "xl") else "none",
        ),
        **training(
            arg,
            FINE_TUNED if arg.weights else rate,
            epochs=2.0 if arg.demo else 10.0,
            tokens=TOKENS,
        ),
        eval=EvalOptions(every_epochs=1.0, metric="bleu", batch_size=32, first=False),
    )


def _transresnet(arg: SimpleNamespace) -> ConfigDict:
    """From weights as ParlAI trains it; on its own, it ranks the responses of a split.

    From scratch, contexts and responses are read by one set of weights: words that occur in both
    make their vectors alike from the beginning, which two sets learn from many more dialogues than
    there are in `jddc_pairs`.
    """
    # What comes with weights is kept; from scratch there is nothing to keep.
    kept = bool(arg.images) and bool(arg.image_weights or arg.init_from)
    scratch = not arg.weights
    return new_config(
        label=f"TransResNet ({arg.images or 'texts alone'})",
        system="network",
        task_name="response_ranking",
        data=DataOptions(dataset=arg.dataset),
        task=_ranking(arg),
        model=TransResNetOptions(
            text="weights" if arg.weights else "transresnet",
            weights=arg.weights or None,
            image=arg.images or "resnet-18",
            image_weights=arg.image_weights or None,
            shared=scratch,
            batch_norm="frozen" if kept else "global",
            vocab_size=2000 if arg.demo else 8000,
        ),
        optim=OptimOptions(
            name="adam",
            learning_rate=7e-4 if scratch else FINE_TUNED,
            schedule="cosine" if scratch else "constant",
            warmup_fraction=0.1 if scratch else None,
            clip_norm=1.0 if scratch else None,
            frozen=("^image_tower/",) if kept else (),
        ),
        train=TrainOptions(
            global_batch_size=128,
            length_window=WINDOW // 128,
            total_epochs=2.0 if arg.demo else 10.0,
            init_from=arg.init_from or None,
        ),
        eval=EvalOptions(every_epochs=1.0, metric="hits@1/100", first=False),
        mesh=MeshOptions(slice=None if arg.demo else SLICE),
        observe=ObserveOptions(log_every_steps=20),
    )


def _knn(arg: SimpleNamespace) -> ConfigDict:
    """The responses of the 40 nearest contexts, and of 10 by the photo (JDDC 2.1, 4.1)."""
    chosen = ", chosen by TransResNet" if arg.ranker else ""
    return new_config(
        label=f"k-NN ({f'texts and {arg.images}' if arg.images else 'texts'}){chosen}",
        system="knn",
        task_name="response",
        data=DataOptions(dataset=arg.dataset),
        task=_ranking(arg),
        knn=KnnOptions(
            encoder=arg.encoder,
            ranker=arg.ranker or None,
            image_weights=arg.image_weights or None,
        ),
        eval=EvalOptions(metric="bleu"),
        loader=LoaderOptions(),
        mesh=MeshOptions(),
    )


def _ranking(arg: SimpleNamespace) -> RankingOptions:
    return RankingOptions(
        role=arg.role or None,
        context_max_length=96 if arg.demo else 128,
        images=bool(arg.images),
        image=ImageOptions(size=64 if arg.demo else 224, fit="crop"),
    )


def batch_norm(arg: SimpleNamespace) -> str:
    """Of a GPT's image tower: what comes with weights is kept, and from scratch there is nothing
    to keep."""
    from_scratch = arg.images and not (arg.image_weights or arg.init_from)
    return "global" if from_scratch else "frozen"


def training(arg: SimpleNamespace, rate: float, *, epochs: float, tokens: int) -> dict:
    """The sections of how a GPT is trained, from scratch or from weights.

    Args:
      tokens: of an example, about: a batch of packed rows has as many examples as another one.
    """
    batch_size, window = 32, WINDOW // 32
    if arg.packed:
        packed_rows = batch_size * tokens / arg.packed
        batch_size, window = CHIPS * max(1, round(packed_rows / CHIPS)), 1
    return {
        "optim": OptimOptions(
            learning_rate=rate, weight_decay=0.01, warmup_fraction=0.05, clip_norm=1.0
        ),
        "train": TrainOptions(
            global_batch_size=batch_size,
            length_window=window,
            packed_length=arg.packed or None,
            total_epochs=epochs,
            init_from=arg.init_from or None,
        ),
        "mesh": MeshOptions(slice=None if arg.demo else SLICE),
        "observe": ObserveOptions(log_every_steps=20),
    }
