"""The variants of a sweep, from a JSON file or from the function `sweep` of a config file.

    {"config": "configs/retrieval.py:demo", "table": "demo_retrieval",
     "variants": {"small-batch": ["--config.train.global_batch_size=32"], "bm25": [...]}}

In a config file, `sweep()` returns the variants: a mapping as above, or a list of mappings from
keys of the config to values, which are named by what they set.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Attributes:
    variants: arguments of `mmjax.main` by name, the config among them.
    table: for `mmjax.report`; None: the one of the task.
    """

    variants: Mapping[str, Sequence[str]]
    table: str | None = None


def read_sweep(text: str) -> Sweep:
    """The sweep of "FILE.json" or "CONFIG.py[:variant]".

    Raises:
      UserError: there is none, or it has another form.
    """
    file, _, _ = text.partition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"--sweep={file}: there is no such file.")
    if path.suffix == ".py":
        return Sweep(_named(_call_sweep(path), text, file))
    try:
        record = json.loads(path.read_text())
        config, variants, table = record["config"], record["variants"], record.get("table")
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f'--sweep={file} must hold {{"config": ..., "variants": {{NAME: [...]}}}} ({error!r}).'
        ) from error
    return Sweep(_named(variants, config, file), table)


def _call_sweep(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"--sweep={path} is not Python that can be read ({error}).") from error
    if not hasattr(module, "sweep"):
        raise UserError(f"--sweep={path}: the config file has no function sweep().")
    return module.sweep()


def _named(variants: Any, config: str, file: str) -> dict[str, list[str]]:
    """Complete arguments by name."""
    if isinstance(variants, str) or not isinstance(variants, Iterable):
        raise UserError(
            f"{file}: the variants are {variants!r}, but must be a mapping from names to "
            "--config... arguments, or a list of mappings from config keys to values."
        )
    if not isinstance(variants, Mapping):
        variants = {_name_of(keys, file): _overrides(keys) for keys in variants}
    found = {}
    for name, arguments in variants.items():
        if isinstance(arguments, Mapping):
            arguments = _overrides(arguments)
        if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
            raise UserError(f"{file}: variant {name!r} must be a list of --config... arguments.")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{file}: {name!r} cannot name a folder: letters, digits, . _ = + -")
        if wrong := [a for a in arguments if not a.startswith("--config")]:
            raise UserError(f"{file}: variant {name}: {wrong[0]!r} is no --config... argument.")
        own = any(a.startswith("--config=") for a in arguments)
        found[name] = arguments if own else [f"--config={config}", *arguments]
    if not found:
        raise UserError(f"{file} lists no variants.")
    if len({tuple(a) for a in found.values()}) < len(found):
        raise UserError(f"{file}: two variants are the same run.")
    return found


def _overrides(keys: Mapping[str, Any]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in keys.items()]


def _name_of(keys: Any, file: str) -> str:
    """ "optim.learning_rate": 0.001, "seed": 1 -> "learning_rate=0.001-seed=1"."""
    if not isinstance(keys, Mapping) or not keys:
        raise UserError(f"{file}: sweep() must give mappings from config keys to values.")
    return "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in keys.items())
