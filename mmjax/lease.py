"""The lock on a folder of an object store: a lease, which its holder writes again and again.

Object stores have no locks, but every write may name the generation of the object that it shall
replace, and is refused where another was faster. So exactly one of several that reach for a lease
gets it. The holder replaces it every `renew_every` seconds. Who finds one watches it: it is alive
when it changes, and stale, to be taken over, when it has not changed for `stale_after` seconds of
the watcher's own clock (the clocks of two machines are never compared). A holder that was cut off
for that long has lost it, notices with its next write, and stops.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmjax import storage
from mmjax.errors import OutageError, UserError

if TYPE_CHECKING:
    import tensorstore as ts

logger = logging.getLogger(__name__)

RENEW_EVERY, STALE_AFTER = 10.0, 60.0  # seconds
_POLLS = 12  # of a lease that is watched, until it is stale


class Lease:
    """A lease on one object.

    Attributes:
      generation: of the object as this holder wrote it last; None while it is not held.
    """

    def __init__(
        self,
        store: ts.KvStore,
        name: str,
        *,
        where: str,
        on_lost: Callable[[UserError], None],
        renew_every: float | None = None,
        stale_after: float | None = None,
        wait: Callable[[float], Any] | None = None,
    ):
        """
        Args:
          store, name: the object.
          where: the folder, for messages.
          on_lost: called, from another thread, when another run may have taken it over; with an
            OutageError where the store could not be reached for so long.
          renew_every, stale_after: seconds; None: `RENEW_EVERY` and `STALE_AFTER`.
          wait: waits so many seconds while another's lease is watched.
        """
        self.generation: bytes | None = None
        self._store, self._name, self._where = store, name, where
        self._on_lost = on_lost
        self._renew_every = RENEW_EVERY if renew_every is None else renew_every
        self._stale_after = STALE_AFTER if stale_after is None else stale_after
        self._released = threading.Event()
        self._wait = wait or self._released.wait
        self._owner = {
            "owner": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self._renewed_at = 0.0
        self._keeper: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lease and keeps it alive.

        Raises:
          UserError: another run holds it, or was faster, or it cannot be written; OutageError: the
            store may answer later.
        """
        try:
            generation = self._free_generation()
            self.generation = self._write(generation)
        except (ValueError, OSError, RuntimeError) as error:  # as TensorStore reports them
            raise storage.failure(error)(
                f"--workdir={self._where} cannot be written ({storage.reason(error)}): check the "
                "bucket's name and this machine's rights."
            ) from error
        if self.generation is None:
            raise self._refused()
        self._renewed_at = time.monotonic()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._keeper.start()

    def release(self) -> None:
        """Gives it back; one that is lost stays with its new holder."""
        self._released.set()
        if self._keeper is not None:
            # Whoever ends must not wait for a store that does not answer.
            self._keeper.join(self._renew_every)
        if self.generation is None:
            return
        generation, self.generation = self.generation, None
        try:
            self._done(self._store.write(self._name, None, if_equal=generation), self._renew_every)
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("the lease on %s stays until it is stale: %s", self._where, error)

    def renew(self) -> bool:
        """Writes it again; False where it is another's now. Raises what TensorStore raises."""
        generation = self._write(self.generation)
        if generation is None:
            return False
        self.generation, self._renewed_at = generation, time.monotonic()
        return True

    def _free_generation(self) -> bytes:
        """That of no object, or of a lease that was not renewed while it was watched."""
        found = self._done(self._store.read(self._name))
        if found.state == "missing":
            return found.stamp.generation
        logger.info(
            "%s was taken by %s: watching for %.0f s whether that run is alive",
            *(self._where, _holder(found.value), self._stale_after),
        )
        for _ in range(_POLLS):
            self._wait(self._stale_after / _POLLS)
            now = self._done(self._store.read(self._name))
            if now.state == "missing":  # given back meanwhile
                return now.stamp.generation
            if now.stamp.generation != found.stamp.generation:
                raise self._refused()
        logger.warning("the run that had %s is gone: taking over", self._where)
        return found.stamp.generation

    def _write(self, generation: bytes) -> bytes | None:
        """The new generation; None where the object's is not `generation`."""
        value = json.dumps({**self._owner, "stale_after_seconds": self._stale_after})
        stamp = self._done(self._store.write(self._name, value, if_equal=generation))
        if stamp.generation:
            return stamp.generation
        # Refused, perhaps because the same write had come through and only its answer was lost.
        found = self._done(self._store.read(self._name))
        mine = self._owner["owner"].encode() in found.value
        return found.stamp.generation if mine else None

    def _done(self, asked: ts.Future, within: float | None = None) -> Any:
        """What was asked of the store, which tries again for minutes where it is cut off.

        Args:
          within: seconds; None: until a lease that was renewed then would be given up.

        Raises:
          TimeoutError, or what TensorStore raises.
        """
        if within is None:
            held = 0.0 if self._keeper is None else time.monotonic() - self._renewed_at
            within = max(self._stale_after - self._renew_every - held, self._renew_every)
        try:
            return asked.result(timeout=within)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {within:.0f} s") from error

    def _keep(self) -> None:
        while not self._released.wait(self._renew_every):
            try:
                if self.renew():
                    continue
                kind, why = UserError, "another run took it over"
            except (ValueError, OSError, RuntimeError) as error:
                logger.warning("the lease on %s was not renewed: %s", self._where, error)
                if time.monotonic() - self._renewed_at < self._stale_after - self._renew_every:
                    continue
                kind, why = OutageError, "it could not be renewed"
            self.generation = None
            self._on_lost(
                kind(
                    f"this run has lost its hold on {self._where} ({why}): it stops, and the same "
                    "command continues from the last checkpoint when no other run is there."
                )
            )
            return

    def _refused(self) -> UserError:
        found = self._done(self._store.read(self._name))
        return UserError(
            f"another run is working in {self._where} ({_holder(found.value)}): wait for it, stop "
            "it, or choose another --workdir."
        )


def _holder(value: bytes) -> str:
    try:
        found = json.loads(value)
        return f"process {found['process']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
