"""A bound on the time of a step from what the hardware can do at most (Williams et al. 2009).

It is no prediction: a step takes at least so long, and usually longer.
"""

from __future__ import annotations

import dataclasses

from mmjax.check.costs import Costs
from mmjax.observe.chips import Chip


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that one call needs for each of three things, were it alone.

    Attributes:
      compute: matrix products at the bfloat16 peak.
      memory: traffic with the device's memory.
      links: what collectives send, over all links of the device at once.
    """

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The longest: all three may go on at the same time."""
        return max(self.compute, self.memory, self.links)

    @property
    def by(self) -> str:
        """Which it is."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def bound(costs: Costs, device: Chip) -> Bound:
    """The bound for a device (`mmjax.observe.chips.of_device`)."""
    return Bound(
        compute=costs.flops / device.peak_flops,
        memory=costs.bytes_moved / device.memory_bandwidth,
        links=costs.bytes_sent / device.link_bandwidth,
    )


def mfu(model_flops: float, seconds: float, devices: int, device: Chip) -> float:
    """Share of the peak that the model's own FLOPs would be in that time (Chowdhery et al. 2022).

    Args:
      model_flops: of a step over all devices, without what is computed twice.
    """
    return model_flops / (seconds * devices * device.peak_flops)
