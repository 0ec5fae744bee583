"""Times contenders in turns, so that whatever else the machine does falls on all of them alike.

Seconds say little about another machine; ratios within one run do. Every round is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Seconds = dict[str, list[float]]


def alternate(
    contenders: Mapping[str, Callable[[], Any]], *, rounds: int
) -> tuple[Seconds, Seconds]:
    """Seconds that each contender took, round by round: on the wall, and of the CPU.

    The first is what a user waits. The second is what all threads of this process computed, which
    depends less on what else the machine does.

    One round that is not counted comes first: it fills caches and starts threads. Every other
    round goes backwards, so that nobody always comes after the same one.
    """
    wall: Seconds = {name: [] for name in contenders}
    cpu: Seconds = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for number in range(rounds):
        for name in reversed(contenders) if number % 2 else contenders:
            began = time.perf_counter(), time.process_time()
            contenders[name]()
            wall[name].append(time.perf_counter() - began[0])
            cpu[name].append(time.process_time() - began[1])
    return wall, cpu


def compare(seconds: Seconds, *, amount: float, reference: str) -> dict[str, Any]:
    """Rates, and their ratios to the reference's in the same round.

    Args:
      amount: what one round gets done, in the unit of the rates.

    Returns:
      {"amount", "reference", "contenders": name -> {"seconds", "rate", "ratio"}}; `rate` (amount
      per second) and `ratio` (above 1: faster than the reference) are {"median", "low", "high"}
      over the rounds.
    """
    return {
        "amount": amount,
        "reference": reference,
        "contenders": {
            name: {
                "seconds": own,
                "rate": spread([amount / s for s in own]),
                "ratio": spread([r / s for r, s in zip(seconds[reference], own, strict=True)]),
            }
            for name, own in seconds.items()
        },
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
