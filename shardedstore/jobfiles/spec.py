"""The options of a job: one definition for job files, their JSON Schema, and the command line.

To add options, write a frozen keyword-only msgspec.Struct in the feature's own file, or use the public class, such as
`Limits`. Annotate each field as below. Then add one field of that class with a default to `JobSpec`, `ClusterSpec`
(cluster_spec.py) or `RunSpec`. The fields of a nested struct become separate options. A field of `JobSpec` with the
name of a keyword of `ShardedStore.plan` is passed to that method, and a field of `RunSpec` to `JobPlan.run`.
`options.py` lists the keys of `extra`.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from shardedstore.callbacks.log import LogOptions
from shardedstore.jobfiles.parse import only_one, parse_shard_options, parse_storage
from shardedstore.jobs.change_detection import Changed
from shardedstore.jobs.guards import Guards
from shardedstore.jobs.job import MOST_FAILURES
from shardedstore.jobs.job_plan import OnError
from shardedstore.jobs.limits import NO_LIMITS, Limits
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.object_sizes import MAX_BASE
from shardedstore.jobs.stop_signal import GRACE
from shardedstore.storage.attributes import NO_ATTRIBUTES, ObjectAttributes

Rule = str | int | list[int] | dict[str, int]
ShardRules = str | int | list[str] | dict[str, Rule]
Transform = str | dict[str, Any]  # "zip:per_zip=9", or {"use": "zip", "per_zip": 9}
StorageValues = dict[str, str | int | float | bool]


class JobSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job: a source, a chain of transforms, and a destination."""

    name: Annotated[
        str | None,
        Meta(
            description="The name of the job in reports and for --only. The default is the last part of the destination.",
            extra={"option": None},
        ),
    ] = None
    source: Annotated[
        str,
        Meta(
            description="A Zarr: a folder, a zip, a URL, a config (.json), or a pattern with * for many Zarrs.",
            extra={"option": None, "path": True},
        ),
    ]
    destination: Annotated[
        str, Meta(description="A folder or a URL for the result.", extra={"option": None, "path": True})
    ]
    to: Annotated[
        Transform,
        Meta(
            description="The format of the result: zip, zarr, sharding-codec, or the sink of another package, with its options.",
            extra={
                "section": "Result",
                "help": "The format of the result: zip, zarr or sharding-codec, with options as in zip:per_zip=1000.",
                "metavar": "SINK",
                "parse": only_one,
            },
        ),
    ]
    shards: Annotated[
        ShardRules | None,
        Meta(
            description="The division of the source: a size such as '512 MiB', a list of paths that are whole shards, or a "
            "rule for each path or glob: 'whole', 'base', a size, a shape such as [720, -1], or a table such as {time = 720}.",
            extra={
                "section": "Division of SOURCE",
                "help": "Divide SOURCE by this rule, such as '512 MiB', 't2m=time:720' or 'maps/*=whole'.",
                "metavar": "RULE",
                "parse": parse_shard_options,
            },
        ),
    ] = None
    include: Annotated[
        list[str],
        Meta(description="Keep only these groups and arrays, by path or glob.", extra={"metavar": "PATH"}),
    ] = []
    exclude: Annotated[
        list[str],
        Meta(description="Leave out these groups and arrays, by path or glob.", extra={"metavar": "PATH"}),
    ] = []
    v3: Annotated[bool, Meta(description="Convert Zarr v2 to v3.", extra={"section": "Steps"})] = False
    steps: Annotated[
        list[Transform],
        Meta(
            description="The steps of the chain, after v3 and before codec: names, or tables such as {use = 'recompress', codec = 'zstd'}.",
            extra={"help": "Add a step by its name, after --v3.", "option": "--step", "metavar": "STEP", "parse": list},
        ),
    ] = []
    codec: Annotated[
        str | None,
        Meta(
            description="Compress with this codec, such as zstd or blosc:cname=lz4,clevel=9.",
            extra={"metavar": "CODEC"},
        ),
    ] = None
    portable: Annotated[
        bool,
        Meta(
            description="Replace codecs and chunk keys that some known readers lack, and refuse features that can't be replaced."
        ),
    ] = False
    consolidated: Annotated[
        bool | None, Meta(description="Write consolidated metadata.  [default: if SOURCE has some]")
    ] = None
    source_storage: Annotated[
        StorageValues,
        Meta(
            description="Set an option of the object store of SOURCE.",
            extra={"section": "Storage", "metavar": "KEY=VALUE", "parse": parse_storage},
        ),
    ] = {}
    storage: Annotated[
        StorageValues,
        Meta(
            description="Set an option of the object store of DESTINATION.",
            extra={"metavar": "KEY=VALUE", "parse": parse_storage},
        ),
    ] = {}
    source_profile: Annotated[
        str | None,
        Meta(description="The AWS profile for SOURCE. The default is the environment's.", extra={"metavar": "NAME"}),
    ] = None
    profile: Annotated[
        str | None,
        Meta(
            description="The AWS profile for DESTINATION. The default is the environment's.", extra={"metavar": "NAME"}
        ),
    ] = None
    limits: Annotated[
        Limits, Meta(description="Limits of requests, bytes and memory.", extra={"section": "Limits"})
    ] = NO_LIMITS
    objects: Annotated[
        ObjectAttributes,
        Meta(description="Attributes of the objects of shards.", extra={"section": "Objects of shards"}),
    ] = NO_ATTRIBUTES
    max_base: Annotated[
        str | int,
        Meta(
            description="The largest decoded size of the base.",
            extra={"section": "Changes and failures", "metavar": "SIZE"},
        ),
    ] = MAX_BASE
    retries: Annotated[
        int, Meta(ge=0, description="Repeat a shard up to N times after a temporary error.", extra={"metavar": "N"})
    ] = 2
    changed: Annotated[Changed, Meta(description="The comparison that finds changes in SOURCE since the last run.")] = (
        "metadata"
    )
    source_moved_from: Annotated[
        str | None,
        Meta(
            description="The URL of SOURCE when an earlier run made the result, if it was moved since. Its shards are kept.",
            extra={"metavar": "OLD", "path": True},
        ),
    ] = None
    on_error: Annotated[
        OnError,
        Meta(
            description="finish: run all other shards after a failure. stop: stop at the first failure. partial: as "
            "finish, and print how to open the unfinished result."
        ),
    ] = "finish"
    max_failures: Annotated[
        int, Meta(ge=1, description="Stop after this number of failed shards.", extra={"metavar": "N"})
    ] = MOST_FAILURES
    accept_failed: Annotated[
        list[str],
        Meta(
            description="Publish the result without this shard if it fails, such as 't2m[5]'.",
            extra={"metavar": "SHARD"},
        ),
    ] = []
    max_missing: Annotated[
        int, Meta(ge=0, description="Publish the result without up to N other failed shards.", extra={"metavar": "N"})
    ] = 0
    digest: Annotated[bool, Meta(description="Record digests of the decoded data, so that verify needs no SOURCE.")] = (
        False
    )
    overwrite: Annotated[bool, Meta(description="Write to a DESTINATION that holds other files; they are kept.")] = (
        False
    )
    move: Annotated[
        Move | None,
        Meta(description="Delete the source shard by shard, after verification.", extra={"section": "Moves"}),
    ] = None
    guards: Annotated[
        Guards,
        Meta(
            description="The checks of a changed source before a new result replaces the published one.",
            extra={"section": "Guards"},
        ),
    ] = Guards()
    report: Annotated[
        str | None,
        Meta(
            description="Write the report of the run to this folder, or to this .html file. The default is beside the ledger.",
            extra={"section": "Reports", "metavar": "URL", "path": True},
        ),
    ] = None
    no_report: Annotated[bool, Meta(description="Write no report of the run.")] = False
    ping: Annotated[
        str | None,
        Meta(
            description="Send a request to this URL of a monitoring service at the start, after a success, and after a "
            "failure. In a job file, name an environment variable.",
            extra={"metavar": "URL"},
        ),
    ] = None
    prometheus: Annotated[
        str | None,
        Meta(
            description="Write metrics for the textfile collector of node_exporter to this .prom file.",
            extra={"metavar": "FILE", "path": True},
        ),
    ] = None


class RunSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The options of a run, which do not change its results: progress, logs, time, reports."""

    max_duration: Annotated[
        str | None,
        Meta(
            description="Start no new shard after this time, such as 5h50m. The exit code is then 10, and the same command resumes the job.",
            extra={"section": "Time", "metavar": "TIME"},
        ),
    ] = None
    grace: Annotated[
        str,
        Meta(
            description="After the time limit or a signal, give running shards this time to finish.",
            extra={"metavar": "TIME"},
        ),
    ] = GRACE
    exit_code_if_unchanged: Annotated[bool, Meta(description="End with exit code 3 if there was nothing to do.")] = (
        False
    )
    log: Annotated[LogOptions, Meta(description="The log and the progress.", extra={"section": "Logs"})] = LogOptions()
