"""The classes that may start a cluster for a job file. No other name in a job file is imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from shardedstore.errors import ClusterError, UsageError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.storage.errors import chain_of
from shardedstore.text import one_line

JOB_QUEUES = ("HTCondor", "LSF", "Moab", "OAR", "PBS", "SGE", "SLURM")
CLASSES = {  # the module of each class, and the package to install
    **{f"dask_jobqueue.{name}Cluster": ("dask_jobqueue", "shardedstore[jobqueue]") for name in JOB_QUEUES},
    "dask_gateway.GatewayCluster": ("dask_gateway", "dask-gateway"),
    "dask_kubernetes.operator.KubeCluster": ("dask_kubernetes.operator", "dask-kubernetes"),
    "distributed.LocalCluster": ("distributed", "distributed"),
    "distributed.SSHCluster": ("distributed", "distributed[asyncssh]"),
}


def start_cluster(spec: ClusterSpec) -> Any:
    """Start the cluster of a spec with a class, with its workers or its range of workers.

    Raises
    ------
    UsageError
        If the class is not in the table or not installed, or if it does not take its options.
    ClusterError
        If the cluster does not start.
    """
    name = spec.class_ or "distributed.LocalCluster"
    make = _find(name)
    try:
        cluster = make(**spec.options)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        wrong = next((one for one in chain_of(error) if isinstance(one, TypeError | ValueError)), None)
        if wrong is not None:
            raise UsageError(f"{name} can't start with these options: {one_line(wrong)}") from error
        raise ClusterError(f"{name} does not start: {one_line(error)}") from error
    if spec.adapt is not None:
        cluster.adapt(minimum=spec.adapt.minimum, maximum=spec.adapt.maximum)
    elif spec.workers is not None:
        cluster.scale(spec.workers)
    return cluster


def _find(name: str) -> Any:
    if name not in CLASSES:
        raise UsageError(f"the cluster class {name!r} is not known: use one of {', '.join(CLASSES)}")
    module, package = CLASSES[name]
    try:
        return getattr(import_module(module), name.rpartition(".")[2])
    except ImportError as error:
        raise UsageError(
            f"the cluster class {name} needs a package that is not installed ({one_line(error)}): pip install {package}"
        ) from error
