"""A working directory: what is in it, whose it is, and what the test split was used for.

config.json      the config, written once; the same command continues the run
preprocessing/   what was fitted on the training data (the tokenizer)
metrics/         JSON lines, see `mmjax.observe.metrics_log`
checkpoints/     the latest states;  best/  the best one by the dev metric
artifact/        what the finished run is to others, see `mmjax.artifacts`
export/          models for transformers, see `mmjax.export`
audit/           which input earns the score, see `mmjax.audit`
test_looks/      the ledger: one file per look at a test split
result.json      final metrics with everything needed to make them again
per_example.json ranks of every example, for intervals and paired comparisons
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mmjax import storage
from mmjax.errors import OutageError, UserError
from mmjax.evaluators import Evaluation, of_part
from mmjax.lease import Lease
from mmjax.metrics.bootstrap import bootstrap_interval
from mmjax.observe.environment import command_line, device, versions
from mmjax.parallel import coordination, distributed, ending


class WorkDir:
    """Paths in a working directory, and the files that say what it is."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path).expanduser()
        if not storage.is_remote(path):
            self.path = epath.Path(Path(self.path).absolute())  # Orbax takes no relative path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process.

        In a folder the lock is the kernel's and goes with the process, however it ends. In an
        object store it is a lease: see `mmjax.lease`.

        Raises:
          UserError: another run holds it, or it cannot be written.
        """
        if storage.is_remote(self.path):
            store, where = storage.key_values(self.path), str(self.path)
            lease = Lease(store, ".lease", where=where, on_lost=ending.end_all)
            lease.acquire()
            ending.at_end(lease.release)
            try:
                yield
            finally:
                lease.release()
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workdir={self.path} cannot be made ({error.strerror or error})."
            ) from error
        import fcntl

        try:
            file = Path(self.path / ".lock").open("w")  # noqa: SIM115 - closed when the lock goes
        except OSError as error:
            raise UserError(
                f"--workdir={self.path} cannot be written ({error.strerror or error})."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"another run is working in {self.path}: wait for it, stop it, or choose "
                    "another --workdir."
                ) from error
            yield

    def claim(self, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Writes the config of a new run, or checks that this is the same run.

        Raises:
          UserError: an identity key differs from the run that is here.
        """
        with self._told():
            # Once: a kill while it is written again would leave a run that cannot be continued.
            if (self.path / "checkpoints").exists():
                found = self.check(identity)
            else:  # a command that came to nothing, perhaps with a mistake in it, binds nobody
                found = self._same(identity)
                if not found:
                    (self.path / "preprocessing.ready").unlink(missing_ok=True)
            if not found:
                text = json.dumps({"identity": dict(identity), "config": config}, indent=1)
                storage.write_text(self.path / "config.json", text)

    def check_shared(self) -> None:
        """Waits for the process that claims the directory; every process calls it then.

        Raises:
          UserError: a process sees another directory under this path.
        """
        wanted = distributed.from_main(self._config_digest(), "who works in the directory")
        if self._config_digest() != wanted:
            raise UserError(
                f"{coordination.name()} on {socket.gethostname()} does not see in {self.path} what "
                "process 0 wrote there: --workdir must be a folder that all machines share, or "
                "gs://BUCKET/FOLDER."
            )

    def check(self, identity: Mapping[str, Any], free: Collection[str] = ()) -> bool:
        """Whether a run is here; raises UserError if it is another one than `identity` says.

        Args:
          free: keys that may differ.
        """
        path = self.path / "config.json"
        with self._told():
            if not path.exists():
                return False
            text, begun = path.read_text(), (self.path / "checkpoints").exists()
        try:
            before = json.loads(text)["identity"]
        except (ValueError, KeyError, TypeError) as error:
            if begun:
                raise UserError(
                    f"{path} cannot be read ({error}); the run in {self.path} cannot be continued."
                ) from error
            return False  # damaged before anything else was made
        now = json.loads(json.dumps(dict(identity)))
        if before != now:
            keys = sorted(k for k in {*before, *now} - set(free) if before.get(k) != now.get(k))
            if not keys:
                return True
            shown = "; ".join(f"config.{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in keys)
            raise UserError(
                f"{self.path} holds another run ({shown}): choose another --workdir, or give the "
                "same values."
            )
        return True

    def _config_digest(self) -> str:
        file = self.path / "config.json"
        with self._told():
            return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""

    def _same(self, identity: Mapping[str, Any]) -> bool:
        try:
            return self.check(identity)
        except OutageError:
            raise
        except UserError:
            return False

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return storage.told(
            f"--workdir={self.path} cannot be read or written",
            "free space, see that this machine may use it, and give the same command again",
        )

    def look_at_test(self, why: str) -> int:
        """Enters one look at a test split in the ledger; returns how many there have been."""
        folder = self.path / "test_looks"
        entry = {
            "why": why,
            "command": command_line(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            looks = self.looks()
            storage.write_text(folder / f"{looks:04d}.json", json.dumps(entry))
        return looks + 1

    def looks(self) -> int:
        """How often a test split has been looked at."""
        folder = self.path / "test_looks"
        with self._told():
            return sum(1 for _ in storage.files(folder)) if folder.exists() else 0

    def figures(self, split: str) -> dict[str, float]:
        """The final metrics on a split; empty where there is no result."""
        try:
            with storage.as_os_errors():
                return dict(json.loads((self.path / "result.json").read_text())["metrics"][split])
        except (OSError, ValueError, LookupError, TypeError):
            return {}

    def write_result(
        self,
        *,
        config: Mapping[str, Any],
        dataset: Mapping[str, Any],
        evaluations: Mapping[str, Evaluation],
        ids: Mapping[str, Any],
        steps: int,
        seconds: float,
        parents: list[Mapping[str, Any]],
        tasks: Mapping[str, Any] | None = None,
    ) -> None:
        """`result.json` and `per_example.json`, from which `mmjax.report` makes its tables.

        Args:
          evaluations: of each split that was scored.
          ids: of the examples of each split, in order; of a mixture, of each of its tasks.
          tasks: of a mixture, what else is told of each of them, its "dataset" above all.
        """
        per_example = {split: _per_example(e, ids[split]) for split, e in evaluations.items()}
        result = {
            "format_version": 1,
            "name": self.path.name,
            "label": config["label"],
            "command": command_line(),
            "system": config["system"],
            "task": config["task_name"],
            "dataset": dataset,
            "metrics": {split: dict(e.metrics) for split, e in evaluations.items()},
            "intervals": {split: _intervals(e) for split, e in evaluations.items()},
            **({"tasks": dict(tasks)} if tasks else {}),
            "per_example": "per_example.json",
            "steps": steps,
            "wall_seconds": round(seconds, 1),
            "test_looks": self.looks(),
            "parents": parents,
            "config": config,
            "versions": versions(),
            "device": device(),
        }
        with self._told():
            storage.write_text(self.path / "per_example.json", json.dumps(per_example))
            storage.write_text(self.path / "result.json", json.dumps(result, indent=1))


def _per_example(evaluation: Evaluation, ids: Any) -> dict[str, Any]:
    if evaluation.parts:
        return {name: _per_example(part, ids[name]) for name, part in evaluation.parts.items()}
    figures = {name: np.asarray(x).tolist() for name, x in evaluation.per_example.items()}
    return {"ids": ids, **figures}


def _intervals(evaluation: Evaluation) -> dict[str, list[float]]:
    found = {
        name: list(bootstrap_interval(sample, groups=evaluation.groups))
        for name, sample in evaluation.samples.items()
    }
    for part, own in evaluation.parts.items():
        found |= {of_part(part, name): bounds for name, bounds in _intervals(own).items()}
    return found
