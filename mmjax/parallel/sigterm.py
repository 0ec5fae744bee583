"""What SIGTERM does: in the training loop it asks for a save, and anywhere else it ends the run.

JAX takes the signal for its preemption service when the processes are connected, and only the
training loop asks that service. So it is taken back: a thread hears of the signal, also while the
main thread is held up in a library, and either hands it on to JAX or ends all processes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from mmjax.parallel import ending

_lock = threading.Lock()  # of what follows
_in_loop = False
_came = False
_tell_jax: Callable[[int], Any] | None = None


def take_over() -> None:
    """From JAX, which has it since the processes are connected."""
    global _tell_jax
    if threading.current_thread() is not threading.main_thread():
        return  # the caller handles its own signals
    read, write = os.pipe()
    os.set_blocking(write, False)
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype = ctypes.c_void_p
    _tell_jax = ctypes.CFUNCTYPE(None, ctypes.c_int)(set_handler(signal.SIGTERM, signal.SIG_IGN))
    # Python's functions for signals run in the main thread, when it comes to it; but for each that
    # has one a byte is written here at once.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(read,), name="sigterm", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.siginterrupt(signal.SIGTERM, False)
    os.register_at_fork(after_in_child=_forget)


def begin_loop() -> None:
    """From here on SIGTERM is a notice for JAX's preemption service."""
    global _in_loop
    with _lock:
        _in_loop = True


def end_loop(*, heeded: bool) -> None:
    """From here on it ends the processes, at once where one came that nobody has heeded."""
    global _in_loop
    with _lock:
        _in_loop = False
        if heeded or not _came:
            return
    ending.end_all(ending.Terminated())


def _listen(pipe: int) -> None:
    while True:
        if os.read(pipe, 1)[0] == signal.SIGTERM:  # Ctrl-C comes here too
            _terminate()


def _terminate() -> None:
    global _came
    with _lock:
        _came = True
        if _in_loop:
            _tell_jax(signal.SIGTERM)
            return
    ending.end_all(ending.Terminated())


def _forget() -> None:
    """A process that was forked off ends by it, and its parent does not hear of that."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
