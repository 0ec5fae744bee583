"""Checkpoints that are whole or absent: Orbax writes the arrays, a manifest makes them count.

Orbax neither notices flipped bytes nor falls back to an older step, and takes any directory with a
number as its name for a checkpoint. So a checkpoint here counts only when its manifest, written
last, names every file with its size and SHA-256, and all of them agree.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mmjax import storage
from mmjax.errors import UserError
from mmjax.parallel import distributed

logger = logging.getLogger(__name__)

_ARRAYS = "arrays"
_HOST = "host.json"
_MANIFEST = "manifest.json"


class CheckpointStore:
    """Numbered checkpoints in one folder, saved in the background.

    A save returns once the arrays are copied from the device; `poll` raises at the next step if
    an earlier one failed, so that a run never goes on without knowing. Only a save changes the
    folder: another process may read it meanwhile.

    Attributes:
      current: the checkpoint that was saved or restored last; None before.
    """

    def __init__(self, folder: epath.PathLike):
        self.current: int | None = None
        self._folder = epath.Path(folder)
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self._whole: set[int] = set()  # those whose files have been checked

    def save(self, step: int, tree: Any, host: dict[str, Any], keep: Collection[int] | int) -> None:
        """Saves `tree` and the JSON values `host` as number `step`; waits for an earlier save.

        Args:
          keep: how many of the latest checkpoints stay, this one included (none beyond `step`
            does: a run that fell back to an older one has left them behind); or exactly which
            others do. What goes is removed once this one counts.

        Raises:
          UserError: this or the earlier save failed.
        """
        self.wait()
        self._whole.discard(step)
        target = self._folder / str(step)
        try:
            with storage.as_os_errors():
                if distributed.is_main():
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._remove_unfinished()
                    if target.exists():
                        _remove(target)
                distributed.barrier(f"checkpoint {step}", distributed.WORK_S)
                self._orbax.save(target / _ARRAYS, args=ocp.args.StandardSave(tree))
        except (OSError, ValueError) as error:
            raise self._failed(step, error) from error
        record = {"host": host, "tree": _signature(tree)}
        self._pending = self._thread.submit(self._finish, step, record, keep)
        self.current = step

    def poll(self) -> None:
        """Raises UserError if the save in the background has failed."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when no save is under way. Raises UserError if the last one failed."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits, and frees threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def latest(self) -> int | None:
        """The newest checkpoint that is whole; None if there is none. Warns of broken ones."""
        found = -1
        if distributed.is_main():
            with _readable(self._folder):
                numbers = self._numbers()
            for step in sorted(numbers, reverse=True):
                fault = self._fault(step)
                if fault is None:
                    found = step
                    break
                logger.warning("checkpoint %s is not used: %s", self._folder / str(step), fault)
        found = distributed.from_main(found, "the latest checkpoint", distributed.WORK_S)
        return None if found < 0 else found

    def check(self, step: int) -> None:
        """Raises UserError unless checkpoint `step` is whole."""
        fault = self._fault(step) if distributed.is_main() else None
        if fault is not None:
            raise UserError(
                f"checkpoint {self._folder / str(step)} cannot be used: {fault}. Bring it back, or "
                "train again in another --workdir."
            )
        # The others read what one has checked.
        distributed.barrier(f"checkpoint {step} is whole", distributed.WORK_S)

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """The arrays and host values of checkpoint `step`.

        Args:
          target: tree of ShapeDtypeStruct with shardings; any mesh.

        Raises:
          UserError: a broken checkpoint, or one of another model (the first difference is named).
        """
        self.check(step)
        path = self._folder / str(step)
        with _readable(path):
            saved = json.loads((path / _HOST).read_text())
        difference = _difference(saved["tree"], _signature(target))
        if difference:
            raise UserError(
                f"checkpoint {path} is of another model: {difference}. Use the config it was made "
                "with, or another --workdir."
            )
        with _readable(path):
            tree = self._orbax.restore(path / _ARRAYS, args=ocp.args.StandardRestore(target))
        self.current = step
        return tree, saved["host"]

    def host(self, step: int) -> dict[str, Any]:
        """The host values of a checkpoint alone."""
        path = self._folder / str(step)
        with _readable(path):
            return json.loads((path / _HOST).read_text())["host"]

    def hosts(self) -> list[dict[str, Any]]:
        """The host values of all checkpoints from which a run might continue."""
        found = []
        with _readable(self._folder):
            for step in self._finished():
                text = _text(self._folder / str(step) / _HOST)
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    found.append(json.loads(text)["host"])
        return found

    def _finish(self, step: int, record: dict[str, Any], keep: Collection[int] | int) -> None:
        """Runs in the background: the manifest, then the removal of what is not kept."""
        try:
            with storage.as_os_errors():
                self._orbax.wait_until_finished()
                if not distributed.is_main():
                    return
                path = self._folder / str(step)
                storage.write_text(path / _HOST, json.dumps(record))
                storage.write_text(path / _MANIFEST, json.dumps(_digests(path)))
                steps = self._finished()
                if isinstance(keep, int):
                    keep = [s for s in steps if s <= step][-keep:]
                for old in steps:
                    if old not in {*keep, step}:
                        _remove(self._folder / str(old))
        except (OSError, ValueError) as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> UserError:
        if distributed.is_main():
            # What is left goes with the next save.
            with contextlib.suppress(OSError), storage.as_os_errors():
                self._remove_unfinished()
        return storage.failure(error)(
            f"checkpoint {step} could not be saved in {self._folder} ({storage.reason(error)}): "
            "the run stopped; free space or mend the folder, and the same command continues from "
            "the checkpoint before it."
        )

    def _numbers(self) -> list[int]:
        """Of all directories that look like checkpoints."""
        if not self._folder.exists():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdigit())

    def _finished(self) -> list[int]:
        """Those with a manifest, in order."""
        return [step for step in self._numbers() if _manifest(self._folder / str(step))]

    def _remove_unfinished(self) -> None:
        """What a save left that was killed or failed."""
        for step in self._numbers():
            if not _manifest(self._folder / str(step)):
                _remove(self._folder / str(step))

    def _fault(self, step: int) -> str | None:
        if step in self._whole:
            return None
        path = self._folder / str(step)
        with _readable(path):
            wanted = _manifest(path)
            if not wanted:
                return "its save was not finished"
            found = _digests(path)
        if wanted == found:
            self._whole.add(step)
            return None
        names = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
        return f"{names[0]} is missing or was changed since it was saved"


def _readable(path: epath.Path) -> contextlib.AbstractContextManager[None]:
    """What is read in here and cannot be, is told: it may be whole."""
    return storage.told(f"{path} cannot be read", "see that it can, and run the same command again")


def _manifest(path: epath.Path) -> dict[str, list] | None:
    """None where there is none, or one that was cut off."""
    try:
        found = json.loads(_text(path / _MANIFEST))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _text(file: epath.Path) -> str:
    """What is in a file; nothing where there is none."""
    try:
        return file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _remove(path: epath.Path) -> None:
    """The manifest goes first: a removal that is cut short leaves nothing that counts."""
    if path.is_dir():
        (path / _MANIFEST).unlink(missing_ok=True)
        path.rmtree()


def _digests(path: epath.Path) -> dict[str, list]:
    """name -> [bytes, SHA-256] of every file below `path` but the manifest.

    Of an object store, sizes alone: it keeps a checksum of every object itself, and to read back
    through one process what all have written would take longer than the save.
    """
    found = storage.digests(path, content=not storage.is_remote(path))
    found.pop(_MANIFEST, None)
    return found


def _signature(tree: Any) -> dict[str, list]:
    """path -> [shape, dtype] of every array: Orbax would cast another dtype silently."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [
            list(np.shape(leaf)),
            str(np.dtype(leaf.dtype)),
        ]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _difference(saved: dict[str, list], wanted: dict[str, list]) -> str | None:
    for name in sorted({*saved, *wanted}):
        if saved.get(name) != wanted.get(name):
            there, here = (
                f"shape {tuple(x[name][0])} {x[name][1]}" if name in x else "absent"
                for x in (saved, wanted)
            )
            return f"{name} is {there} in it and {here} in this config"
    return None
