"""Shared by all tests: where real data is found, and run-time checks of array shapes."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# No test depends on time.
hypothesis.settings.register_profile("mmjax", deadline=None)
hypothesis.settings.load_profile("mmjax")

# Tests are about correctness on any machine; an accelerator would only change the last bits.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def shared_data():
    """Path of a folder of real data; without it the test fails where it is promised, else skips."""

    def find(folder: str) -> Path:
        root = Path(__file__).resolve().parents[2] / "shared" / "data"
        root = Path(os.environ.get("MMJAX_DATA_DIR", root))
        if (root / folder).is_dir():
            return root / folder
        reason = f"real data folder {folder!r} is not under {root} (set MMJAX_DATA_DIR)"
        if os.environ.get("MMJAX_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return find
