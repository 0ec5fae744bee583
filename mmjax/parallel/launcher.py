"""What the environment says about how this process was started: alone, or as one of several."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping

from jax._src import cloud_tpu_init

from mmjax.errors import UserError

# What `jax.distributed` reads of an address and the numbers that are given by hand.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclasses.dataclass(frozen=True)
class Launch:
    """Attributes:
    by: who started this process, for messages.
    processes: how many were started; None: JAX finds out (a TPU's metadata server).
    process, address: number of this one, and where process 0 is; None: JAX finds out.
    """

    by: str
    processes: int | None
    process: int | None = None
    address: str | None = None


def find(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """How this process was started; None: alone, as far as can be seen.

    Raises:
      UserError: variables that contradict each other, or a job of several tasks that was started
        as one.
    """
    return _by_hand(environment) or _slurm(environment) or _mpi(environment) or _tpu(environment)


def _by_hand(environment: Mapping[str, str]) -> Launch | None:
    given = {name: environment[name] for name in _BY_HAND if environment.get(name)}
    if not given:
        return None
    if absent := [name for name in _BY_HAND if name not in given]:
        raise UserError(
            f"{' and '.join(given)} is set, but {' and '.join(absent)} is not: set all three of "
            "them for each process (the address of process 0, how many there are, which this is)."
        )
    address, (count, number) = given[_BY_HAND[0]], (_whole(given, name) for name in _BY_HAND[1:])
    if not 0 <= number < count:
        raise UserError(
            f"JAX_PROCESS_ID={number} is none of JAX_NUM_PROCESSES={count}: they count from 0."
        )
    if not re.fullmatch(r".+:\d{1,5}", address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address!r} must be written HOST:PORT.")
    return Launch("JAX_* variables", count, number, address)


def _slurm(environment: Mapping[str, str]) -> Launch | None:
    if "SLURM_JOB_ID" not in environment or "SLURM_NTASKS" not in environment:
        return None
    count = _whole(environment, "SLURM_NTASKS")
    if count > 1 and "SLURM_STEP_NODELIST" not in environment:
        raise UserError(
            f"Slurm gave this job {count} tasks, but the command was started once: start it with "
            "`srun python -m mmjax.main ...`, or say --distributed=off."
        )
    return Launch("Slurm", count)


def _mpi(environment: Mapping[str, str]) -> Launch | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    return Launch("Open MPI", _whole(environment, "OMPI_COMM_WORLD_SIZE"))


def _tpu(environment: Mapping[str, str]) -> Launch | None:
    """The workers of a slice, times the slices."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts:
        slices = environment.get("MEGASCALE_NUM_SLICES")
        slices = _whole(environment, "MEGASCALE_NUM_SLICES") if slices else 1
        return Launch("a TPU's worker list", slices * len(hosts.split(",")))
    if environment.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return Launch("a TPU's metadata", None)
    # A TPU VM that was made by hand tells its workers through its metadata server alone.
    if cloud_tpu_init.running_in_cloud_tpu_vm and environment.get("JAX_PLATFORMS") != "cpu":
        return Launch("a TPU's metadata", None)
    return None


def _whole(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdigit():
        raise UserError(f"{name}={value!r} is not a number.")
    return int(value)
