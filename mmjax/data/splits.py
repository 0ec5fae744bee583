"""A split of the config's dataset as a task sees it."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from mmjax.data.examples import Featurizer
from mmjax.data.index import ExampleIndex, open_index
from mmjax.data.mirror import local_dir
from mmjax.data.perturb import perturbed
from mmjax.data.sources import Source, open_dataset
from mmjax.errors import UserError
from mmjax.options import DataOptions

# config.data.pixels -> the perturbation.
_PIXELS = {"blank": "images_blanked", "shuffled": "images_shuffled"}


@dataclasses.dataclass(frozen=True)
class Split:
    """Records, and the examples that a task finds in them."""

    source: Source
    index: ExampleIndex

    def ids(self, rows: tuple[np.ndarray, np.ndarray] | None = None) -> list[str]:
        """A name of each example: its dialogue's id, with "#1", "#2", ... after the first.

        Args:
          rows: (record, sub) of what is named; None: the examples of the index.
        """
        found = zip(*((self.index.record, self.index.sub) if rows is None else rows), strict=True)
        return [
            f"{self.source[int(record)].id}#{sub}" if sub else self.source[int(record)].id
            for record, sub in found
        ]


def open_source(
    options: DataOptions, split: str, *, photos: bool = False, boxes: bool = False
) -> Source:
    """The records of a split, and the photos where pixels are read, prepared where they are not.

    Args:
      boxes: boxes in the photos are read too.

    Raises:
      UserError: as `open_dataset`, or `config.data.pixels` cannot be had.
    """
    source = open_dataset(
        options.dataset,
        split,
        data_dir=options.data_dir,
        manual_dir=options.manual_dir,
        max_bad_records=options.max_bad_records,
        photos=photos,
        boxes=boxes,
        regions=options.regions,
    )
    if options.pixels == "real" or not (photos or options.regions):
        return source
    try:
        return perturbed(source, _PIXELS[options.pixels])
    except UserError as error:
        raise UserError(f"config.data.pixels={options.pixels}: {error}") from error


def open_split(task: Featurizer, options: DataOptions, split: str) -> Split:
    """Records and index of a split."""
    source = open_source(options, split, photos=task.photos, boxes=task.boxes)
    return index_split(task, options, source)


def index_split(task: Featurizer, options: DataOptions, source: Source) -> Split:
    """The same of records that are open already."""
    index = open_index(
        task,
        source,
        cache_dir=os.fspath(local_dir(options.data_dir)),
        max_skipped_fraction=options.max_skipped_fraction,
    )
    return Split(source, index)
