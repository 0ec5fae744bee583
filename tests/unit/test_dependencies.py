"""Dependencies point one way, and importing mmjax does not import TensorFlow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mmjax"

# Part -> the other parts of mmjax that it may import, anywhere in its files. The loop, systems and
# the command line may import what they like; nothing below them imports them.
ALLOWED = {
    "errors": set(),
    "storage": {"errors"},
    "lease": {"errors", "storage"},
    "config": {"errors"},
    "options": {"config"},
    "metrics": {"data", "parallel"},
    "parallel": {"config", "errors", "options", "storage"},
    "losses": {"models", "parallel"},
    "models": {"parallel", "errors"},
    "decoding": {"errors"},
    "optim": {"config", "errors"},
    "data": {"config", "errors", "options", "parallel", "storage"},
    "curation": {"data", "errors"},
    "pretrained": {"errors", "models", "parallel", "data"},
    "observe": {"config", "curation", "data", "errors", "options", "storage"},
    "evaluators": {"data", "errors", "metrics", "parallel"},
    "evaluators_decisions": {"data", "errors", "evaluators", "metrics"},
    "evaluators_slots": {"data", "errors", "evaluators", "metrics"},
    "evaluators_generation": {"data", "errors", "evaluators", "evaluators_slots", "metrics"},
    "evaluators_hits": {"data", "evaluators", "evaluators_generation", "metrics"},
    "figures": {"metrics"},
    "published": {"config", "errors"},
    "report_formats": set(),
    "answers": {"errors"},
    "rating": {"answers", "errors", "metrics", "observe"},
    "tasks": {
        *("config", "data", "decoding", "errors", "observe", "options"),
        *("evaluators", "evaluators_decisions", "evaluators_generation", "evaluators_hits"),
        *("losses", "metrics", "models", "parallel", "pretrained"),
    },
    "mixing": {"config", "data", "errors", "evaluators", "options", "tasks"},
    "first_state": {"artifacts", "errors", "tasks", "train_state"},
    "train_state": {"errors", "optim", "parallel"},
    "steps": {"losses", "optim", "parallel", "train_state"},
    "programs": {
        *("config", "data", "errors", "mixing", "optim", "options", "parallel"),
        *("steps", "tasks", "train_state", "trainer"),
    },
    "check": {
        *("config", "data", "errors", "models", "observe", "parallel"),
        *("programs", "steps", "task_data", "train_state"),
    },
}


def imports(file: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_stands_below_it(part):
    for file in files(part):
        used = {n.split(".")[1] for n in imports(file) if n.startswith("mmjax.")}
        wrong = used - ALLOWED[part] - {part}
        assert not wrong, f"{file.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_the_loop_names_no_task_dataset_or_model():
    for part in ("trainer", "steps"):
        used = {n.split(".")[1] for n in imports(PACKAGE / f"{part}.py") if n.startswith("mmjax.")}
        assert not used & {"tasks", "models", "data", "metrics", "baselines", "pretrained"}


def test_modules_of_the_network_library_are_written_in_models_alone():
    for file in PACKAGE.rglob("*.py"):
        if PACKAGE / "models" not in file.parents:
            linen = [n for n in imports(file) if n.startswith("flax.linen") or n == "flax.linen"]
            assert not linen, f"{file.relative_to(PACKAGE)} imports {linen}"


def test_no_module_imports_tensorflow_when_it_is_imported():
    """CLU and TFDS bring it along; both are imported where they are used."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                assert name.partition(".")[0] not in (
                    "tensorflow",
                    "tensorflow_datasets",
                    "clu",
                ), f"{file.relative_to(PACKAGE)} imports {name}"
