"""How a process was started is read from what launchers set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from jax._src import cloud_tpu_init

from mmjax.errors import UserError
from mmjax.parallel import distributed
from mmjax.parallel.launcher import Launch, find

BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (BY_HAND, Launch("JAX_* variables", 4, 3, "10.0.0.1:1234")),
        # What is given by hand stands above a launcher's.
        (BY_HAND | SLURM, Launch("JAX_* variables", 4, 3, "10.0.0.1:1234")),
        (SLURM | {"SLURM_STEP_NODELIST": "node[1-4]"}, Launch("Slurm", 4)),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, Launch("Slurm", 1)),
        ({"SLURM_JOB_ID": "7"}, None),  # an interactive shell
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Launch("Open MPI", 2)),
        ({"TPU_WORKER_HOSTNAMES": "a"}, Launch("a TPU's worker list", 1)),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "MEGASCALE_NUM_SLICES": "2"},
            Launch("a TPU's worker list", 8),
        ),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, Launch("a TPU's metadata", None)),
    ],
)
def test_who_started_how_many(environment, found):
    assert find(environment) == found


def test_a_tpu_machine_without_variables_is_asked(monkeypatch):
    """What tells JAX that it is on one is private: this fails when it is gone."""
    assert cloud_tpu_init.running_in_cloud_tpu_vm is False
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    assert find({}) == Launch("a TPU's metadata", None)
    assert find({"JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "4"}, "JAX_NUM_PROCESSES is set, but JAX_COORDINATOR_ADDRESS and"),
        (BY_HAND | {"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES='four' is not a number"),
        (BY_HAND | {"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 is none of JAX_NUM_PROCESSES=4"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "must be written HOST:PORT"),
        (SLURM, "gave this job 4 tasks, but the command was started once: .*srun"),
    ],
)
def test_a_mistake_is_one_sentence(environment, message):
    with pytest.raises(UserError, match=message):
        find(environment)


def test_processes_that_nobody_tells_of_cannot_be_insisted_on(monkeypatch):
    for name in (*BY_HAND, *SLURM, "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--distributed=on, but nothing says where"):
        distributed.start("on")
    with pytest.raises(UserError, match="choose one of auto, on, off"):
        distributed.start("maybe")


# Connects; prints which GPUs it may use, and whether 127.0.0.1 is where it is heard.
STARTED = """
import pathlib
from jax._src import xla_bridge
from jax._src.distributed import global_state
from mmjax.parallel import distributed
distributed.start("off")
port = int(global_state.coordinator_address.rpartition(":")[2])
tables = "".join(pathlib.Path(f"/proc/self/net/{table}").read_text() for table in ("tcp", "tcp6"))
rows = [row.split() for row in tables.splitlines()]
heard = {row[1][-13:] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
print(xla_bridge.CUDA_VISIBLE_DEVICES.value, heard == {f"0100007F:{port:04X}"})
"""


def test_one_process_of_a_slurm_job_has_all_gpus_and_is_heard_by_this_machine_alone():
    one_task = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "1",
        "SLURM_STEP_NODELIST": "node1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        env={**os.environ, **one_task},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "all True\n", done.stderr


def test_processes_that_are_given_by_hand_take_nothing_else_from_slurm(monkeypatch):
    """As where `launch.local` runs inside of a job of one task, with GPUs for each."""
    for name, value in {**BY_HAND, **SLURM, "SLURM_STEP_NODELIST": "node1"}.items():
        monkeypatch.setenv(name, value)
    given = {}

    def initialize(address, **options):
        given.update(options, address=address)
        raise ValueError("far enough")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match="far enough"):
        distributed.start("on")
    assert (given["address"], given["num_processes"]) == ("10.0.0.1:1234", 4)
    assert given["cluster_detection_method"] == "deactivate"
    for name in BY_HAND:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="far enough"):  # all that Slurm's own processes know
        distributed.start("on")
    assert given["cluster_detection_method"] is None
