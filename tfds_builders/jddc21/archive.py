"""The files of an unpacked JDDC 2.1: which there may be, which are there, and their digests.

The corpus is given to applicants; what is expected of its folder is in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from mmjax.data.schema import SPLITS
from tfds_builders.dialogue_folder import jsonl
from tfds_builders.local_folder import named_folder

ORIGINAL = "https://github.com/hrlinlp/jddc2.1 (an application form)"
SESSIONS = {split: f"sessions/{split}.jsonl" for split in SPLITS}
CATEGORIES = "image_categories.tsv"
PRODUCTS, TRIPLES = "knowledge/products.tsv", "knowledge/triples.tsv"
REWRITES, DISCOURSE = "annotations/rewrites.jsonl", "annotations/discourse.jsonl"
SUMMARIES, ANNOTATED = "annotations/summaries.jsonl", "annotations/splits.tsv"
IMAGES = "images"
# File -> what a task cannot have without it.
USES: Mapping[str, str] = {
    **{name: f"the sessions of {split}" for split, name in SESSIONS.items()},
    CATEGORIES: "the categories of images",
    PRODUCTS: "the kinds of products",
    TRIPLES: "what is known of products",
    REWRITES: "what customers meant",
    DISCOURSE: "discourse structures",
    SUMMARIES: "summaries",
    ANNOTATED: "the splits of annotated sessions (jddc21/annotated)",
}

Files = Mapping[str, tuple[epath.Path, str]]  # name of USES -> path, SHA-256


def folder_of(manual_dir: Any) -> Path:
    """The archive's folder. Raises UserError where none is named, or it is none."""
    what = f"the unpacked corpus ({ORIGINAL}; see tfds_builders/jddc21/README.md)"
    return named_folder(manual_dir, "jddc21", what)


def files_of(folder: Path) -> Files:
    """Those of the tables that are there."""
    paths = {name: epath.Path(folder / name) for name in USES}
    return {name: (path, jsonl.digest(path)) for name, path in paths.items() if path.is_file()}
