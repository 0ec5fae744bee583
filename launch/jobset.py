"""The JobSet by which Kubernetes runs mmjax on TPU slices: a Job per slice, a pod per host.

GKE tells the pods which host of which slice they are (TPU_WORKER_ID, MEGASCALE_SLICE_ID and the
like), and JAX reads it.

Source: "Orchestrate Multislice workloads using JobSet and Kueue" (GKE) and the JobSet API
v1alpha2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.arguments import Job
from launch.exit_codes import INTERRUPTED, USER_ERROR
from launch.kueue import QUEUE
from mmjax.errors import UserError

# The longest that Kubernetes waits between SIGTERM and SIGKILL: a checkpoint is written in it.
GRACE_SECONDS = 300
# A finished JobSet and its log are kept so long.
KEPT_SECONDS = 7 * 24 * 3600
# Ports of the runtime in libtpu, by which the hosts of a slice talk, and of JAX's coordinator.
PORTS = (8471, 8482)
KIND = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
# A bug, bad input, something that does not fit, Ctrl-C: the same would happen again.
FINAL = (1, USER_ERROR, 3, INTERRUPTED)


def manifest(job: Job, image: str) -> dict[str, Any]:
    """The JobSet as Kubernetes reads it.

    The exit codes of FINAL fail it. Everything else, 75, 69 and a node that is taken away among it,
    starts all pods again, at most `job.relaunches` times.

    Args:
      image: with its tag.
    """
    if job.slice.generation.gke is None:
        raise UserError(f"--accelerator={job.slice.type} does not exist in GKE.")
    node = {
        "cloud.google.com/gke-tpu-accelerator": job.slice.generation.gke,
        "cloud.google.com/gke-tpu-topology": job.slice.topology,
    }
    if job.options.spot:
        node["cloud.google.com/gke-spot"] = "true"
    container: dict[str, Any] = {
        "name": "mmjax",
        "image": image,
        "command": ["python", "-m", "mmjax.main", *job.command],
        "ports": [{"containerPort": port} for port in PORTS],
        "resources": {"limits": {"google.com/tpu": job.slice.chips_per_host}},
    }
    if job.env_file is not None:
        container["envFrom"] = [{"secretRef": {"name": secret_name(job)}}]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "nodeSelector": node,
        "containers": [container],
    }
    if job.options.service_account:
        pod["serviceAccountName"] = job.options.service_account
    final = {"containerName": "mmjax", "operator": "In", "values": list(FINAL)}
    replicated = {
        "name": "slice",
        "replicas": job.options.slices,
        "template": {
            "spec": {
                "parallelism": job.slice.hosts,
                "completions": job.slice.hosts,
                "backoffLimit": 0,
                "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
                "template": {"spec": pod},
            }
        },
    }
    return {
        **KIND,
        "metadata": {
            "name": job.name,
            "labels": _queue(job),
            # A slice is a node pool: the pods of one are not spread over two.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "failurePolicy": {
                "maxRestarts": job.relaunches,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [replicated],
        },
    }


def secret(job: Job, variables: Mapping[str, str]) -> dict[str, Any]:
    """The Secret from which the pods take their environment."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(job)},
        "type": "Opaque",
        "stringData": dict(variables),
    }


def owner(job: Job, uid: str) -> dict[str, str]:
    """Names the JobSet as the owner of what Kubernetes deletes with it."""
    return {**KIND, "name": job.name, "uid": uid}


def secret_name(job: Job) -> str:
    return f"{job.name}-env"


def _queue(job: Job) -> dict[str, str]:
    return {QUEUE: job.options.queue} if job.options.queue else {}
