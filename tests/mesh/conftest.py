"""Eight simulated devices for every test in this folder.

JAX counts its devices once per process, when it first computes. So these tests need a process of
their own, with the flag set from the start: `make test` gives them one.
"""

from __future__ import annotations

import os

import pytest

FLAG = "--xla_force_host_platform_device_count=8"

# In time when pytest was asked for this folder alone; too late after other tests have computed.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}".strip()


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    """Fails, and does not skip: a promise that is not checked must not look kept."""
    import jax

    if len(jax.devices()) < 8:
        pytest.fail(
            f"tests/mesh needs 8 devices and found {len(jax.devices())}: run it in a process of "
            f"its own, XLA_FLAGS={FLAG} python -m pytest tests/mesh",
            pytrace=False,
        )
