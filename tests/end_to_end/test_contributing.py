"""The pages of CONTRIBUTING.md are complete: followed to the letter, they work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- (file|insert): (.+?) -->\n```\w*\n(.*?)```\n", re.DOTALL)
CHATS = (
    "{0}1\t0\tWe got a puppy today\t\t\n{0}1\t1\tShow me!\t\t\n{0}1\t0\t\t{0}p\tDog,Sofa\n"
    "{0}2\t1\tPizza again\t\t\n{0}2\t0\tI baked it myself\t\t\n{0}2\t0\t\t{0}q\tPizza,Table\n"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which the pages have been followed."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("mmjax", "configs", "tfds_builders"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for kind, where, content in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()):
        if kind == "file":
            path = copy / where
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            continue
        name, _, anchor = where.partition(" after ")
        text = (copy / name).read_text()
        assert f"{anchor}\n" in text, f"CONTRIBUTING.md inserts after {anchor!r}, gone from {name}"
        (copy / name).write_text(text.replace(f"{anchor}\n", f"{anchor}\n{content}", 1))
    return copy


def run(project, *arguments):
    command = [sys.executable, "-m", "mmjax.main", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_task_the_model_and_the_config_of_the_page_train(project):
    out = run(
        project,
        "--config=configs/animal.py",
        "--config.train.total_epochs=1.0",
        "--config.observe.tensorboard=False",
    )
    accuracy = float(re.search(r"test:  accuracy (\S+)", out).group(1))
    assert accuracy > 50


def test_the_dataset_of_the_page_is_prepared_and_searched(project):
    folder = project / "chats"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").write_text(CHATS.format(split))
    out = run(
        project,
        "--config=configs/retrieval.py:model=bm25,dataset=tsv_chats",
        "--config.data.manual_dir=chats",
    )
    # Each query holds one word of its own photo's labels, and none of the other's.
    assert "test:  recall@1 100.00" in out or "test:  recall@1 75.00" in out


def test_what_the_pages_write_is_as_tidy_as_the_rest(project):
    shutil.copy(ROOT / "pyproject.toml", project)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
