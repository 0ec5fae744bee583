"""The line that a person reads while training goes on."""

from __future__ import annotations

import time


class Progress:
    """Measures speed between two calls of `timing` and tells the time that is left."""

    def __init__(self, step: int, total_steps: int, batch_size: int, *, clock=time.perf_counter):
        self._total, self._batch_size, self._clock = total_steps, batch_size, clock
        self._step, self._time, self._waited = step, clock(), 0.0

    def timing(self, step: int, waited: float) -> dict[str, float]:
        """Speed since the last call.

        Args:
          waited: seconds spent waiting for data since the start.

        Returns:
          steps_per_second, examples_per_second, data_wait (share of the time, 0 to 1),
          eta_seconds.
        """
        now = self._clock()
        steps, seconds = step - self._step, max(now - self._time, 1e-9)
        speed = steps / seconds
        timing = {
            "steps_per_second": speed,
            "examples_per_second": speed * self._batch_size,
            "data_wait": min(1.0, (waited - self._waited) / seconds),
            "eta_seconds": (self._total - step) / speed if speed else float("inf"),
        }
        self._step, self._time, self._waited = step, now, waited
        return timing

    def pause(self, waited: float) -> None:
        """Time since the last call was not training (an evaluation): it does not count."""
        self._time, self._waited = self._clock(), waited


def progress_line(step: int, total: int, values: dict[str, float], timing: dict) -> str:
    """For instance `step 40/320  loss 3.210  2.1 steps/s  268 ex/s  data 0%  2:13 left`."""
    shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    return (
        f"step {step}/{total}  {shown}  {timing['steps_per_second']:.3g} steps/s  "
        f"{timing['examples_per_second']:.3g} ex/s  data {100 * timing['data_wait']:.0f}%  "
        f"{clock_time(timing['eta_seconds'])} left"
    )


def clock_time(seconds: float) -> str:
    """`h:mm:ss` or `m:ss`."""
    if seconds == float("inf"):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
