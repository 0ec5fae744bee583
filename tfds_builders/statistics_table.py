"""The command that prints counts of a dataset, one column per split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from mmjax.data.schema import SPLITS, Dialogue
from mmjax.data.sources import open_dataset
from mmjax.errors import UserError


def print_statistics(
    prog: str,
    about: str,
    count: Callable[[Iterable[Dialogue]], Any],
    argv: Sequence[str] | None = None,
    *,
    dataset: str | None = None,
) -> int:
    """Prints the table; returns the exit code.

    Args:
      prog, about: name of the command, and its sentence for --help.
      count: a split's dialogues -> a dataclass of numbers; what is 0 in all splits is left out.
      dataset: where none is named; None: one must be.
    """
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument(
        "--dataset", required=dataset is None, default=dataset, help="its name, such as jddc_pairs"
    )
    parser.add_argument("--data_dir", default="data", help="where prepared datasets are kept")
    parser.add_argument("--manual_dir", default=None, help="the folder with the original files")
    parser.add_argument("--splits", default=",".join(SPLITS), help="which, with commas between")
    args = parser.parse_args(argv)
    places = {"data_dir": args.data_dir, "manual_dir": args.manual_dir}
    splits = args.splits.split(",")
    try:
        columns = [asdict(count(open_dataset(args.dataset, split, **places))) for split in splits]
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return 2
    print(f"{'':18}" + "".join(f"{split:>12}" for split in splits))
    for name in columns[0]:
        if any(column[name] for column in columns):
            print(f"{name:18}" + "".join(f"{column[name]:>12,}" for column in columns))
    return 0
