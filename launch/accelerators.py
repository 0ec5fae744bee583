"""TPU slices by their accelerator type: how many hosts, which runtime, which nodes in GKE.

Source: Google's pages "TPU configurations", "TPU software versions" and "TPUs in GKE".
"""

from __future__ import annotations

import dataclasses
import re

from mmjax.config import suggestion
from mmjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Generation:
    """Attributes:
    cores_per_chip: 2 where the number in the type counts TensorCores, 1 where it counts chips.
    chips_of_one_host: the largest slice that is one host; larger ones have 4 chips per host.
    sizes: numbers that exist; None: the multiples of 8.
    runtime: software version of the VM that Google recommends for JAX.
    gke: value of the node label `cloud.google.com/gke-tpu-accelerator`; None: not in GKE.
    dimensions: of the network between the chips.
    """

    cores_per_chip: int
    chips_of_one_host: int
    sizes: tuple[int, ...] | None
    runtime: str
    gke: str | None
    dimensions: int


@dataclasses.dataclass(frozen=True)
class Slice:
    """Attributes:
    type: the accelerator type, "v5litepod-16".
    chips, hosts: in the whole slice.
    """

    type: str
    generation: Generation
    chips: int
    hosts: int

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts

    @property
    def topology(self) -> str:
        """Chips along each axis, "4x4"; raises UserError where it does not follow from the size."""
        if self.chips & (self.chips - 1):
            raise UserError(
                f"--accelerator={self.type}: the shape of {self.chips} chips is not known here; "
                "choose a power of two."
            )
        doublings, axes = self.chips.bit_length() - 1, self.generation.dimensions
        sides = [2 ** ((doublings + axis) // axes) for axis in range(axes)]
        # 2x4, 2x2x4: the longest side comes last; only the flat slice is written 2x2x1.
        return "x".join(map(str, [2, 2, 1] if sides == [1, 2, 2] else sides))


_FLAT = (1, 4, 8, 16, 32, 64, 128, 256)
GENERATIONS = {
    "v2": Generation(2, 4, (8, 32, 128, 256, 512), "tpu-ubuntu2204-base", None, 2),
    "v3": Generation(2, 4, (8, 32, 64, 128, 256, 512, 1024, 2048), "tpu-ubuntu2204-base", None, 2),
    "v4": Generation(2, 4, None, "tpu-ubuntu2204-base", "tpu-v4-podslice", 3),
    "v5litepod": Generation(1, 8, _FLAT, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 2),
    "v5p": Generation(2, 4, None, "v2-alpha-tpuv5", "tpu-v5p-slice", 3),
    "v6e": Generation(1, 8, _FLAT, "v2-alpha-tpuv6e", "tpu-v6e-slice", 2),
}


def parse_slice(text: str) -> Slice:
    """The slice "v5litepod-16" and its like. Raises UserError for a form or size that is not."""
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d{0,4})", text)
    if not match:
        raise UserError(
            f"--accelerator={text!r} is not of the form GENERATION-SIZE, such as v5litepod-16."
        )
    name, number = match[1], int(match[2])
    if name == "v5e":
        raise UserError(f"--accelerator={text}: Google calls it v5litepod-{number}.")
    if name not in GENERATIONS:
        raise UserError(
            f"--accelerator={text}: there is no generation {name!r}{suggestion(name, GENERATIONS)}."
        )
    generation = GENERATIONS[name]
    if generation.sizes is None and number % 8:
        raise UserError(f"--accelerator={text}: sizes of {name} are multiples of 8 cores.")
    if generation.sizes is not None and number not in generation.sizes:
        sizes = ", ".join(map(str, generation.sizes))
        raise UserError(f"--accelerator={text}: {name} comes in the sizes {sizes}.")
    chips = number // generation.cores_per_chip
    hosts = 1 if chips <= generation.chips_of_one_host else chips // 4
    return Slice(text, generation, chips, hosts)
