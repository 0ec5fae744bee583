"""The options that all trained systems have: batches, evaluation, data, devices, what is written.

What a task, its networks and an optimiser need stands beside them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from ml_collections import ConfigDict

from mmjax.config import judging, limited, operational, section


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How long, and in which batches. Give exactly one of the three totals.

    Attributes:
      global_batch_size: examples per step over all devices of all processes; with `packed_length`
        rows, each with several of them.
      micro_batch_size: of these, how many go through the model at a time; None: all. The losses
        over all pairs still see the whole batch (cached gradients), and the memory is that of a
        part; the model runs forward twice. Dropout draws anew for every part.
      length_window: batches whose examples are sorted by length and dealt out anew, so that there
        is little padding; 1: as they are drawn.
      packed_length: tokens of a row, into which as many whole examples are put as it holds, in
        place of a `length_window`; None: an example has a row of its own.
      total_steps, total_epochs, total_examples: length of the run; 0 scores the first state.
      max_skipped_steps: consecutive steps with a non-finite loss or gradient (each leaves the
        state untouched) after which the run stops.
      init_from: "run://DIR", or the path of an artifact, of another run: its vocabulary is used,
        and all of its weights that fit; a report names the rest.
    """

    global_batch_size: int = limited(128, low=1)
    micro_batch_size: int | None = limited(None, low=1)
    length_window: int = limited(1, low=1)
    packed_length: int | None = limited(None, low=1)
    total_steps: int | None = operational(None)
    total_epochs: float | None = operational(None)
    total_examples: int | None = operational(None)
    max_skipped_steps: int = operational(10, low=1)
    init_from: str | None = None


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """When the dev split is scored, which value is the best, and when to give up.

    Attributes:
      batch_size: examples per evaluation batch over all devices.
      every_steps, every_epochs, every_examples: at most one; none: only at the end. The last
        step is always evaluated.
      metric: the dev value that chooses the best checkpoint.
      higher_is_better: direction of `metric`.
      patience: evaluations without a new best after which the run stops; None: never.
      first: also evaluate before the first step.
      test: score the best checkpoint on the test split when the run is over (one look).
    """

    batch_size: int = operational(128, low=1)
    every_steps: int | None = operational(None)
    every_epochs: float | None = operational(None)
    every_examples: int | None = operational(None)
    metric: str = "recall_sum"
    higher_is_better: bool = True
    patience: int | None = operational(None, low=1)
    first: bool = operational(True)
    test: bool = operational(True)


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Attributes:
    every_steps, every_epochs, every_examples: at most one; none: once per evaluation.
    keep: how many of the latest checkpoints stay (the best is kept apart from them).
    """

    every_steps: int | None = operational(None)
    every_epochs: float | None = operational(None)
    every_examples: int | None = operational(None)
    keep: int = operational(2, low=1)


@dataclasses.dataclass(frozen=True)
class CommonDataOptions:
    """Where examples come from, whichever dataset they are of.

    Attributes:
      data_dir: where prepared datasets and indexes are kept, a folder or gs://BUCKET/FOLDER
        (`mmjax.data.mirror`).
      max_bad_records: records that cannot be read and are skipped, with their number reported;
        one more is an error.
      max_skipped_fraction: share of records without a usable example above which a run stops.
      pixels: "real"; "blank" replaces every photo by a grey one; "shuffled" gives every photo the
        pixels (with their boxes, and the regions) of another: controls, with which a model that
        sees must fail.
      regions: folder or file with features of the photos' regions, for models that read them
        (`tfds_builders.region_files` says in which forms).
    """

    data_dir: str = operational("data")
    max_bad_records: int = limited(0, low=0)
    max_skipped_fraction: float = limited(0.1, low=0, high=1)
    pixels: Literal["real", "blank", "shuffled"] = judging("real")
    regions: str | None = operational(None)


@dataclasses.dataclass(frozen=True)
class DataOptions(CommonDataOptions):
    """Beside what all datasets of a run have in common:

    Attributes:
      dataset: name of a builder, "photochat", "photochat/demo", "dialogue_folder",
        "photo_folder", "photo_folder/fold-1-of-5", "coco_captions", "coco_captions/restval".
      manual_dir: folder with the dataset's original files; None: the builder looks in
        $MMJAX_DATA_DIR and then downloads.
    """

    dataset: str = "photochat"
    manual_dir: str | None = operational(None)


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """How batches are made ready while the device computes; the batches do not depend on it.

    Attributes:
      threads: threads that featurize batches in this process.
      workers: processes that do so instead; for decoding photos on a host with many cores.
      prefetch: batches kept ready, by each worker where there are some.
      cached_examples: examples whose texts are kept in memory; 0 switches it off.
    """

    threads: int = operational(2, low=1)
    workers: int = operational(0, low=0)
    prefetch: int = operational(4, low=1)
    cached_examples: int = operational(200_000, low=0)


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How the devices are laid out; of each group of sizes one may be -1 and takes what is left.

    Attributes:
      data, fsdp, tensor: sizes of the axes within a slice, over its fast links (ICI): batches are
        cut along data and fsdp, parameters and what belongs to them along fsdp, heads and wide
        layers along tensor.
      dcn_data, dcn_fsdp: slices along these axes, over the network between them (DCN).
      slice: TPU slice that the config is meant for, such as "v3:4x4"; --mode=check compiles for it
        where no --topology is given.
    """

    data: int = operational(-1)
    fsdp: int = operational(1)
    tensor: int = operational(1)
    dcn_data: int = operational(-1)
    dcn_fsdp: int = operational(1)
    slice: str | None = operational(None)


@dataclasses.dataclass(frozen=True)
class ObserveOptions:
    """What is written while training.

    Attributes:
      log_every_steps: steps between two lines of metrics.
      tensorboard: write TensorBoard events through CLU (imports TensorFlow).
      samples: with each evaluation, also write a picture of some answers.
      wandb_project: also log to this Weights & Biases project (needs `pip install wandb`).
    """

    log_every_steps: int = operational(20, low=1)
    tensorboard: bool = operational(True)
    samples: bool = operational(True)
    wandb_project: str | None = operational(None)


LOOP_SECTIONS: dict[str, type] = {
    "data": DataOptions,
    "loader": LoaderOptions,
    "train": TrainOptions,
    "eval": EvalOptions,
    "checkpoint": CheckpointOptions,
    "mesh": MeshOptions,
    "observe": ObserveOptions,
}


def new_config(*, label: str, system: str, task_name: str, **sections: Any) -> ConfigDict:
    """A config made of dataclass instances.

    Args:
      label: the row's name in tables, for instance "DE_label (MiniLM), CE".
      system: a key of `mmjax.systems.SYSTEMS`.
      task_name: a key of `mmjax.tasks.TASKS`.
      **sections: the options of each part; those of `LOOP_SECTIONS` that the system reads and that
        are not given come at their defaults.
    """
    config = ConfigDict({"label": label, "system": system, "task_name": task_name, "seed": 0})
    needed = LOOP_SECTIONS if system == "network" else ("data", "eval")
    for name in needed:
        config[name] = section(LOOP_SECTIONS[name]())
    for name, options in sections.items():
        config[name] = section(options)
    return config.lock()
