"""The line that a person reads while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Measures speed between two calls of `timing` and tells the time that is left."""

    def __init__(
        self,
        step: int,
        total_steps: int,
        batch_size: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """`step`: where this process begins."""
        self._total, self._batch_size, self._clock = total_steps, batch_size, clock
        self.restart(step, 0.0)

    def restart(self, step: int, waited: float) -> None:
        """Measures from here: what came before (compilation, an evaluation) was no training."""
        self._step, self._time, self._waited = step, self._clock(), waited

    def timing(self, step: int, waited: float) -> dict[str, float]:
        """Speed since the last call.

        Args:
          step: beyond that of the last call.
          waited: seconds spent waiting for data since the start.

        Returns:
          steps_per_second, examples_per_second, data_wait (share of the time, 0 to 1),
          eta_seconds.
        """
        seconds = max(self._clock() - self._time, 1e-9)
        speed = (step - self._step) / seconds
        timing = {
            "steps_per_second": speed,
            "examples_per_second": speed * self._batch_size,
            "data_wait": min(1.0, (waited - self._waited) / seconds),
            "eta_seconds": (self._total - step) / speed,
        }
        self.restart(step, waited)
        return timing


def progress_line(step: int, total: int, values: dict[str, float], timing: dict[str, float]) -> str:
    """For instance `step 40/320  loss 3.21  2.1 steps/s  268 ex/s  data 0%  2:13 left`."""
    shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    return (
        f"step {step}/{total}  {shown}  {timing['steps_per_second']:.3g} steps/s  "
        f"{timing['examples_per_second']:.3g} ex/s  data {100 * timing['data_wait']:.0f}%  "
        f"{clock_time(timing['eta_seconds'])} left"
    )


def clock_time(seconds: float) -> str:
    """`h:mm:ss` or `m:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
