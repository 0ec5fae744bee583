"""Starts mmjax elsewhere: on TPU VMs, in Kubernetes and Slurm clusters, in several processes here.

    python -m launch.tpu_vm VERB ...    a TPU VM or a pod slice of them
    python -m launch.queued VERB ...    the same, waiting in the queue for capacity
    python -m launch.gke VERB ...       a JobSet in a Kubernetes cluster with TPUs
    python -m launch.xpk VERB ...       the same through XPK
    python -m launch.slurm VERB ...     GPUs of a Slurm cluster
    python -m launch.local run ...      several processes on this machine
    python -m launch.sweep ...          many runs, by any of the above

All take the same arguments (`launch.arguments`); what stands behind `--` is for `mmjax.main`.
"""
