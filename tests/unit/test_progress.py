"""Speed and time left count training alone."""

from __future__ import annotations

import pytest

from mmjax.observe.progress import Progress, clock_time, progress_line


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_wait_and_time_left():
    clock = Clock()
    progress = Progress(10, 50, 4, clock=clock)
    clock.now += 5
    assert progress.timing(20, 1.0) == {
        "steps_per_second": 2.0,
        "examples_per_second": 8.0,
        "data_wait": 0.2,
        "eta_seconds": 15.0,
    }
    clock.now += 10
    assert progress.timing(30, 1.0)["steps_per_second"] == 1.0  # since the call before


def test_steps_before_a_restart_do_not_count():
    """An evaluation in the middle of an interval: neither its time nor the steps before it."""
    clock = Clock()
    progress = Progress(0, 100, 1, clock=clock)
    clock.now += 500
    progress.restart(10, 400.0)
    clock.now += 5
    timing = progress.timing(20, 401.0)
    assert timing["steps_per_second"] == 2.0
    assert timing["data_wait"] == pytest.approx(0.2)


def test_line():
    timing = {
        "steps_per_second": 2.1,
        "examples_per_second": 268.0,
        "data_wait": 0.004,
        "eta_seconds": 133.2,
    }
    assert progress_line(40, 320, {"loss": 3.21}, timing) == (
        "step 40/320  loss 3.21  2.1 steps/s  268 ex/s  data 0%  2:13 left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36000, "10:00:00")]
)
def test_clock_time(seconds, text):
    assert clock_time(seconds) == text
