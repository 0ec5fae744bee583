"""Accelerators by the name that JAX gives them: what they hold, and how fast they can be.

Sources: Google's pages on TPU v3, v4, v5e, v5p, v6e and TPU7x (cloud.google.com/tpu/docs); v2 from
Norrie et al. 2021; links of v3 and v4 from Jouppi et al. 2023, table 4; NVIDIA's data sheets of
A100, H100 and H200. Peaks are those of dense matrices: the sheets of H100 and H200 print twice as
much, for sparse ones.
"""

from __future__ import annotations

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip; a JAX device may be a part of it.

    Attributes:
      name: usual one.
      memory: bytes of high-bandwidth memory.
      peak_flops: bfloat16 FLOP/s of dense matrix products.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s that all links to other chips (ICI, NVLink) send together; they
        receive as much at the same time.
      devices: JAX devices that a chip is: two where each core is one.
    """

    name: str
    memory: int
    peak_flops: float
    memory_bandwidth: float
    link_bandwidth: float
    devices: int = 1


_V2 = Chip("TPU v2", 16 * GIB, 46e12, 700e9, 4 * 62e9, devices=2)
_V3 = Chip("TPU v3", 32 * GIB, 123e12, 900e9, 4 * 70e9, devices=2)
_V4 = Chip("TPU v4", 32 * GIB, 275e12, 1200e9, 6 * 50e9)
_V5E = Chip("TPU v5e", 16 * GIB, 197e12, 819e9, 200e9)
_V5P = Chip("TPU v5p", 95 * GIB, 459e12, 2765e9, 600e9)
_V6E = Chip("TPU v6e", 32 * GIB, 918e12, 1638e9, 400e9)
_TPU7X = Chip("TPU7x", 192 * GIB, 2307e12, 7380e9, 600e9, devices=2)
_A100_40 = Chip("A100 40GB", 40 * GIB, 312e12, 1555e9, 300e9)
_A100_80 = Chip("A100 80GB", 80 * GIB, 312e12, 2039e9, 300e9)
_A100_80_PCIE = dataclasses.replace(_A100_80, name="A100 80GB PCIe", memory_bandwidth=1935e9)
_H100 = Chip("H100", 80 * GIB, 989e12, 3350e9, 450e9)
_H100_PCIE = Chip("H100 PCIe", 80 * GIB, 756e12, 2000e9, 300e9)
_H200 = Chip("H200", 141 * GIB, 989e12, 4800e9, 450e9)

# By `jax.Device.device_kind`; libtpu has two names for some.
CHIPS: dict[str, Chip] = {
    "TPU v2": _V2,
    "TPU v3": _V3,
    "TPU v4": _V4,
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _TPU7X,
    "NVIDIA A100-SXM4-40GB": _A100_40,
    "NVIDIA A100-PCIE-40GB": _A100_40,
    "NVIDIA A100-SXM4-80GB": _A100_80,
    "NVIDIA A100 80GB PCIe": _A100_80_PCIE,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": _H100_PCIE,
    "NVIDIA H200": _H200,
}


def of_device(device_kind: str) -> Chip | None:
    """What one JAX device of this kind has of its chip; None: nobody published it, as of CPUs."""
    chip = CHIPS.get(device_kind)
    if chip is None:
        return None
    parts = chip.devices
    return dataclasses.replace(
        chip,
        memory=chip.memory // parts,
        peak_flops=chip.peak_flops / parts,
        memory_bandwidth=chip.memory_bandwidth / parts,
        link_bandwidth=chip.link_bandwidth / parts,
        devices=1,
    )


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 FLOP/s of one JAX device of this kind; None as of `of_device`."""
    chip = of_device(device_kind)
    return None if chip is None else chip.peak_flops
