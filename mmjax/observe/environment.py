"""What a number was made with: the command, the versions, the machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import jax

import mmjax

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")


def command_line(module: str = "mmjax.main") -> str:
    """The command as a person would type it, without the paths of this machine's Python."""
    arguments = [a if " " not in a else repr(a) for a in sys.argv[1:]]
    return " ".join(["python", "-m", module, *arguments])


def versions() -> dict[str, str]:
    """Of Python and the libraries that the numbers depend on."""
    found = {"python": platform.python_version(), "mmjax": mmjax.__version__}
    return found | {name: _version(name) for name in _LIBRARIES}


def device() -> dict[str, Any]:
    """What the run was computed on."""
    first = jax.devices()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "kind": first.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
        "machine": f"{os.cpu_count()} {platform.machine()} cores, {memory:.0f} GiB",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
