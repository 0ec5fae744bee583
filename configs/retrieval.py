"""Photo retrieval (PhotoChat, task B): which photo does a dialogue lead up to?

    configs/retrieval.py                              the paper's dual encoder: pixels and labels
    configs/retrieval.py:demo                         a small one on generated photos, in minutes
    configs/retrieval.py:model=de_img,image=resnet-50 pixels alone
    configs/retrieval.py:model=de_label,text=minilm,weights=FOLDER
                                                      labels alone, from MiniLM's weights
    configs/retrieval.py:model=vsepp,image_weights=FOLDER
                                                      VSE++ on a ResNet that is kept as it came
    configs/retrieval.py:model=vsepp,finetune,init_from=run://DIR
                                                      its second stage, which trains the ResNet too
    configs/retrieval.py:model=scan,regions=FOLDER    SCAN t-i AVG on features of regions; or
                                                      direction=i-t, pooling=lse, max, sum
    configs/retrieval.py:model=scan,regions=grid,image_weights=FOLDER
                                                      SCAN on the cells of a ResNet's grid
    configs/retrieval.py:model=scan,regions=boxes,image_weights=FOLDER,dataset=photo_folder
                                                      or on the boxes that a dataset has in it
    configs/retrieval.py:model=scan,demo              a small SCAN (or model=vsepp), in minutes
    configs/retrieval.py:model=bm25                   BM25
    configs/retrieval.py:table4                       lists the rows of the paper's table

`init_from=run://DIR` starts from the weights of another run. A single key is changed with
--config.SECTION.KEY=VALUE.
"""

from __future__ import annotations

from types import SimpleNamespace

from ml_collections import ConfigDict

from mmjax.baselines.bm25_system import Bm25Options
from mmjax.config import check_choices, parse_variant
from mmjax.data.images import ImageOptions
from mmjax.errors import UserError
from mmjax.models.presets import IMAGE_PRESETS
from mmjax.optim.build import OptimOptions
from mmjax.options import (
    DataOptions,
    EvalOptions,
    MeshOptions,
    ObserveOptions,
    TrainOptions,
    new_config,
)
from mmjax.published.tables import no_single_run
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, ScanOptions

MODELS = {
    "de": "both",
    "de_img": "pixels",
    "de_label": "labels",
    "vsepp": "pixels",
    "scan": "regions",
    "bm25": "labels",
}
NAMES = {"de": "DE", "de_img": "DE_img", "de_label": "DE_label"}
TEXTS = {"bert": "bert-base", "bert-tiny": "bert-tiny", "minilm": "minilm-l6"}
DIRECTIONS = ("t-i", "i-t")
POOLINGS = ("avg", "lse", "max", "sum")
GRID, BOXES = "grid", "boxes"  # in place of a place

SLICE = "v3:4x4"  # the 32 cores of the paper


def get_config(variant: str = "") -> ConfigDict:
    """See the module's docstring.

    Args:
      variant: `model`: one of MODELS; `text`: one of TEXTS; `image`: one of IMAGE_PRESETS;
        `weights`, `image_weights`: folder or hub id of the text encoder, of the image encoder;
        of vsepp and scan: `finetune`: the image encoder is trained too; `direction`, `pooling`:
        of SCAN's attention; `regions`: where features of regions are, or a network's: "grid", or
        "boxes" in it;
        `dataset`: a builder; `init_from`: a run; `demo`: a small model, trained in minutes on
        generated dialogues and photos unless a dataset is named; `table4`: no config but the list
        of all rows of the paper's table, with their commands.
    """
    arg = parse_variant(
        variant,
        model="de",
        text="bert",
        image="resnet-152",
        weights="",
        image_weights="",
        finetune=False,
        direction="t-i",
        pooling="avg",
        regions="",
        dataset="",
        init_from="",
        demo=False,
        table4=False,
    )
    if arg.table4:
        raise no_single_run("photochat_retrieval")
    check_choices(
        arg,
        model=MODELS,
        text=TEXTS,
        image=IMAGE_PRESETS,
        direction=DIRECTIONS,
        pooling=POOLINGS,
    )
    arg.dataset = arg.dataset or ("photochat/demo" if arg.demo else "photochat")
    if arg.model == "bm25":
        return new_config(
            label="BM25",
            system="bm25",
            task_name="retrieval",
            data=DataOptions(dataset=arg.dataset),
            task=RetrievalOptions(query="both"),
            bm25=Bm25Options(),
        )
    if arg.model in ("vsepp", "scan"):
        return _matching_demo(arg) if arg.demo else _matching(arg)
    if arg.demo:
        return _demo(arg)
    if arg.text == "minilm":
        return _minilm(arg)
    return _paper(arg)


def _paper(arg: SimpleNamespace) -> ConfigDict:
    """As the paper trains it: BERTs' CLS, ResNet's pooled features, 512 wide, no scale."""
    parts = {"de": f"({arg.image}, {arg.text})", "de_img": f"({arg.image})"}
    return new_config(
        label=f"{NAMES[arg.model]} {parts.get(arg.model, f'({arg.text})')}, CE",
        system="network",
        task_name="retrieval",
        data=DataOptions(dataset=arg.dataset),
        task=RetrievalOptions(candidate=MODELS[arg.model]),
        model=ModelOptions(
            text=TEXTS[arg.text],
            weights=arg.weights or None,
            image=arg.image,
            image_weights=arg.image_weights or None,
            vocab_size=8000,
        ),
        optim=OptimOptions(name="adam", learning_rate=5e-5, schedule="staircase", clip_norm=None),
        train=TrainOptions(
            global_batch_size=128, total_epochs=10.0, init_from=arg.init_from or None
        ),
        eval=EvalOptions(every_epochs=1.0),
        mesh=MeshOptions(slice=SLICE),
    )


def _matching(arg: SimpleNamespace) -> ConfigDict:
    """VSE++ and SCAN as their authors train them on COCO."""
    grid = arg.model == "vsepp" or arg.regions in (GRID, BOXES)
    # (learning rate, epochs until it is a tenth, epochs in all); VSE++'s second stage.
    rate, decay, epochs = {"vsepp": (2e-4, 15.0, 30.0), "scan": (5e-4, 10.0, 20.0)}[arg.model]
    if arg.finetune:
        rate, epochs = 2e-5, 15.0
    tuned = ", FT" if arg.finetune else ""
    # What comes with weights is kept at first; from scratch there is nothing to keep.
    frozen = grid and not arg.finetune and bool(arg.image_weights or arg.init_from)
    return new_config(
        label=_matching_label(arg, f"{arg.image}{tuned}" if grid else "", "MH"),
        system="network",
        task_name="retrieval",
        data=DataOptions(dataset=arg.dataset, regions=None if grid else arg.regions or None),
        task=RetrievalOptions(
            candidate=_seen(arg) if grid else "regions",
            loss="mh",
            margin=0.2,
            reduction="sum",
            image=ImageOptions(size=224, fit="crop", augment="crop", mirror=True),
        ),
        model=ModelOptions(
            kind=arg.model,
            text="gru",
            image=arg.image,
            image_weights=arg.image_weights or None,
            # A network that is kept normalises by the statistics that it came with.
            batch_norm="frozen" if frozen else "global",
            joint_dim=1024,
            word_dim=300,
            min_count=4,
            scan=ScanOptions(arg.direction, arg.pooling, smoothing=9.0, lse_smoothing=6.0),
        ),
        optim=OptimOptions(
            name="adam",
            learning_rate=rate,
            schedule="staircase",
            decay_rate=0.1,
            decay_epochs=decay,
            clip_norm=2.0,
            frozen=("^image_tower/",) if frozen else (),
        ),
        train=TrainOptions(
            global_batch_size=128, total_epochs=epochs, init_from=arg.init_from or None
        ),
        eval=EvalOptions(every_epochs=1.0),
        mesh=MeshOptions(slice=SLICE),
    )


def _matching_demo(arg: SimpleNamespace) -> ConfigDict:
    """From scratch on generated dialogues and photos: two cores and a few minutes."""
    return new_config(
        label=_matching_label(arg, "tiny, from scratch", "SH"),
        system="network",
        task_name="retrieval",
        data=DataOptions(dataset=arg.dataset),
        task=RetrievalOptions(
            candidate=_seen(arg),
            query="both",
            # Where nothing is learned yet, the hardest negative alone draws all vectors together.
            loss="sh",
            image=ImageOptions(size=64),
        ),
        model=ModelOptions(
            kind=arg.model,
            text="gru",
            image="resnet-tiny",
            joint_dim=128,
            word_dim=64,
            scan=ScanOptions(arg.direction, arg.pooling),
        ),
        optim=OptimOptions(
            name="adam", learning_rate=1e-3, schedule="linear", warmup_fraction=0.1, clip_norm=2.0
        ),
        train=TrainOptions(
            global_batch_size=64, total_epochs=10.0, init_from=arg.init_from or None
        ),
        eval=EvalOptions(every_epochs=2.0),
        observe=ObserveOptions(log_every_steps=20),
    )


def _seen(arg: SimpleNamespace) -> str:
    """What a network of the pixels gives."""
    return "boxes" if arg.regions == BOXES else "pixels"


def _matching_label(arg: SimpleNamespace, network: str, loss: str) -> str:
    if network:
        network = f" ({network}, boxes)" if arg.regions == BOXES else f" ({network})"
    if arg.model == "vsepp":
        return f"VSE++{network}, {loss}"
    return f"SCAN {arg.direction} {arg.pooling.upper()}{network}, {loss}"


def _minilm(arg: SimpleNamespace) -> ConfigDict:
    """One MiniLM for both texts, averaged tokens, a scale of 20: small, quick, and strong."""
    if not arg.weights:
        raise UserError(
            "text=minilm needs its weights: configs/retrieval.py:text=minilm,weights=FOLDER, a "
            "Hugging Face folder or hub id such as sentence-transformers/all-MiniLM-L6-v2."
        )
    pixels = MODELS[arg.model] != "labels"
    return new_config(
        label=f"{NAMES[arg.model]} ({f'{arg.image}, ' if pixels else ''}MiniLM-L6), CE",
        system="network",
        task_name="retrieval",
        data=DataOptions(dataset=arg.dataset),
        task=RetrievalOptions(
            candidate=MODELS[arg.model], query_max_length=64, label_max_length=32
        ),
        model=ModelOptions(
            text="minilm-l6",
            weights=arg.weights,
            image=arg.image,
            image_weights=arg.image_weights or None,
            shared=True,
            pooling="mean",
            joint_dim=512 if pixels else None,
            logit_scale=20.0,
            unroll=0,
        ),
        optim=OptimOptions(learning_rate=5e-5, warmup_fraction=0.1),
        train=TrainOptions(
            global_batch_size=128, total_epochs=3.0, init_from=arg.init_from or None
        ),
        eval=EvalOptions(every_epochs=1.0),
        mesh=MeshOptions(slice=SLICE),
    )


def _demo(arg: SimpleNamespace) -> ConfigDict:
    """From scratch on generated dialogues and photos: two cores and a few minutes."""
    return new_config(
        label=f"{NAMES[arg.model]} (tiny, from scratch), CE",
        system="network",
        task_name="retrieval",
        data=DataOptions(dataset=arg.dataset),
        task=RetrievalOptions(
            candidate=MODELS[arg.model],
            query="both",
            query_max_length=128,
            label_max_length=32,
            image=ImageOptions(size=64),
        ),
        model=ModelOptions(
            text="bert-tiny",
            image="resnet-tiny",
            pooling="mean",
            joint_dim=128,
            logit_scale=20.0,
            vocab_size=2000,
            unroll=0,
        ),
        optim=OptimOptions(learning_rate=1e-3, warmup_fraction=0.1),
        train=TrainOptions(
            global_batch_size=64, total_epochs=10.0, init_from=arg.init_from or None
        ),
        eval=EvalOptions(every_epochs=2.0),
        observe=ObserveOptions(log_every_steps=20),
    )
