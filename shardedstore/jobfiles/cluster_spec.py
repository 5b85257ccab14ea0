"""The options of the Dask cluster of a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from shardedstore.errors import UsageError

Count = Annotated[int, Meta(ge=1)]


def parse_tls(texts: Sequence[str]) -> list[str]:
    """Return the paths of ``--tls CA,CERT,KEY``.

    >>> parse_tls(["ca.pem,cert.pem,key.pem"])
    ['ca.pem', 'cert.pem', 'key.pem']
    """
    paths = texts[-1].split(",")
    if len(paths) != 3:
        raise UsageError(f"--tls {','.join(paths)!r} is not CA,CERT,KEY: name three files, separated by commas")
    return paths


class Adapt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of an adaptive cluster, whose number of workers follows the work."""

    minimum: Annotated[int, Meta(ge=0, description="The least number of workers.")] = 0
    maximum: Annotated[Count, Meta(description="The most workers.")]


class ClusterSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The Dask cluster of all jobs of a command."""

    workers: Annotated[
        Count | None,
        Meta(
            description="The number of worker processes, on this machine or of the class of a job file. The default here is "
            "one for each core that this process may use, if there are 512 MiB of memory for each.",
            extra={"section": "Cluster", "metavar": "N"},
        ),
    ] = None
    threads: Annotated[
        Count | None,
        Meta(description="The number of threads of each worker on this machine.  [default: 1]", extra={"metavar": "N"}),
    ] = None
    scheduler: Annotated[
        str | None,
        Meta(
            description="Run on this Dask cluster instead, such as tcp://host:8786.",
            extra={"metavar": "ADDRESS"},
        ),
    ] = None
    scheduler_file: Annotated[
        str | None,
        Meta(
            description="Run on the Dask cluster whose scheduler wrote this file (dask scheduler --scheduler-file).",
            extra={"metavar": "FILE"},
        ),
    ] = None
    tls: Annotated[
        tuple[str, str, str] | None,
        Meta(
            description="The certificate files for a tls:// scheduler: the authority's certificate, the client's certificate, and the client's key.",
            extra={"metavar": "CA,CERT,KEY", "parse": parse_tls},
        ),
    ] = None
    class_: Annotated[
        str | None,
        Meta(
            description="A class that starts a cluster, such as dask_jobqueue.SLURMCluster.",
            extra={"option": None},
        ),
    ] = msgspec.field(default=None, name="class")
    options: Annotated[
        dict[str, Any],
        Meta(description="The arguments of the class, such as cores and memory.", extra={"option": None}),
    ] = {}
    adapt: Annotated[
        Adapt | None,
        Meta(description="Let the number of workers grow and shrink with the work.", extra={"option": None}),
    ] = None
