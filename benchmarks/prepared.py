"""A task and the training split of a dataset, as a run would open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmjax.data.images import ImageOptions
from mmjax.data.loader import Loader
from mmjax.data.plan import TrainPlan
from mmjax.data.sources import Source
from mmjax.data.splits import Split, open_source, open_split
from mmjax.data.tokenizers import Tokenizer, load_tokenizer
from mmjax.errors import UserError
from mmjax.options import DataOptions, LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.tasks.base import Task
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask


def open_training(
    dataset: str,
    manual_dir: str | None,
    data_dir: str,
    *,
    candidate: str,
    side: int = 224,
    weights: str | None = None,
    vocab_size: int = 8000,
) -> tuple[RetrievalTask, Tokenizer, Split]:
    """The task, its tokenizer, and the split; what is prepared on the way is kept.

    Args:
      data_dir: where prepared data, indexes and the tokenizer are kept.
      candidate: what is seen of a photo, see `RetrievalOptions`.
      weights: Hugging Face folder or hub id whose tokenizer is used; None: a SentencePiece model of
        `vocab_size` pieces is trained on the dialogues.
    """
    task = RetrievalTask(
        # Decoded photos are not kept: every one is decoded whenever it is needed.
        RetrievalOptions(candidate=candidate, image=ImageOptions(size=side, cached_mib=0)),
        ModelOptions(weights=weights, vocab_size=vocab_size),
    )
    # A folder of pictures without captions, as COCO partly is, is no mistake here.
    options = DataOptions(
        dataset=dataset, data_dir=data_dir, manual_dir=manual_dir, max_skipped_fraction=0.5
    )
    source = open_source(options, "train", photos=task.photos)
    tokenizer = fit(task, source, data_dir, weights=weights, vocab_size=vocab_size)
    return task, load_tokenizer(tokenizer), open_split(task, options, "train")


def fit(task: Task, source: Source, data_dir: str, *, weights: str | None, vocab_size: int) -> Path:
    """Gives a task its tokenizer and returns the folder; one that was trained is used again."""
    kind = vocab_size if weights is None else "weights"
    name = f"{type(task).__name__}-{source.fingerprint[:16]}-{kind}"
    folder = Path(data_dir) / "tokenizers" / name
    if weights is not None or not folder.is_dir():
        task.fit(source, folder)
    task.load(folder)
    return folder


def training_plan(split: Split, batch_size: int) -> TrainPlan:
    """The order of the split's examples in training."""
    if len(split.index) < batch_size:
        raise UserError(
            f"{split.source.name} has {len(split.index)} examples, fewer than a batch of "
            f"{batch_size}: use a smaller --batch_size."
        )
    return TrainPlan([len(split.index)], batch_size, seed=0)


def training_loader(task: RetrievalTask, split: Split, plan: TrainPlan, **options: Any) -> Loader:
    """A stream of the plan's batches; `options`: see `LoaderOptions`."""
    mesh = make_mesh(MeshOptions())
    return Loader(task, [split.source], [split.index], plan, mesh, LoaderOptions(**options))
