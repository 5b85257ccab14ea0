"""A job file for given sources, with comments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dask.utils import format_bytes

from shardedstore.display.info import info_lines
from shardedstore.errors import UsageError
from shardedstore.jobfiles.write import value_text
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.store_info import info_of
from shardedstore.partition.access import Access
from shardedstore.partition.suggest import Suggestion
from shardedstore.storage.sides import side_options
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.store import ShardedStore
from shardedstore.text import count

SIZES = ("512 MiB", "64 MiB", "8 MiB")  # sizes of shards; the first size that divides the source is used
MOST_NODES = 12  # groups and arrays that are listed for a source

HEAD = """\
{schema}# Jobs for `shardedstore run {file}`. `shardedstore plan {file}` shows what they would do, and writes nothing.
# Relative paths begin at the folder of this file. ${{VAR}} is an environment variable, {{date}} today's date, and {{name}} the
# name of the job.

# The workers of all jobs. They start when a job has something to do. The default is one process for each core.
[cluster]
# workers = 4
# scheduler = "tcp://host:8786"  # instead: a Dask cluster that runs already

# Values for all jobs that do not set their own.
[defaults]
to = "zip"               # or "zarr", "sharding-codec", or with options: {{use = "zip", per_zip = 100}}
# changed = "listing"    # also find chunks that changed in place; "metadata" finds new and reshaped arrays only
# digest = true          # keep digests, so that verify needs no source
# max_missing = 0        # publish the result without up to so many failed shards
# storage = {{region = "eu-central-1", secret_access_key = "${{MY_SECRET}}"}}  # secrets only by name
"""


def job_file(sources: Sequence[str], file: str, access: Sequence[Access] = (), *, schema: str = "") -> str:
    """Return the text of a job file with one job for each source.

    Parameters
    ----------
    sources : sequence of str
        The sources.
    file : str
        The name of the job file.
    access : sequence of mappings, optional
        The ways in which the arrays are read, for the shape of the shards; see `ShardedStore.suggest`.
    schema : str
        The JSON Schema beside the job file, which editors read.

    Raises
    ------
    UsageError
        If two sources have the same name.
    PartitionError
        If a source is not a Zarr.
    """
    names = [source_name(source) for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two sources are named {name!r}: write one file for each")
    jobs = ["\n".join(_job(name, source, access)) for name, source in zip(names, sources, strict=True)]
    named = f"#:schema {schema}\n" if schema else ""
    return "\n".join([HEAD.format(file=os.path.basename(file), schema=named), *(f"{job}\n" for job in jobs)])


def source_name(source: str) -> str:
    """Return a name for the job of a source.

    >>> source_name("s3://bucket/era5.zarr/"), source_name("cells/*.zarr")
    ('era5', 'cells')
    """
    parts = [part for part in re.split(r"[/\\]", source.rstrip("/")) if "*" not in part]
    stem = re.sub(r"\.(zarr\.zip|zarr|zip|ozx|n5|json)$", "", parts[-1] if parts else "")
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "job"


def _job(name: str, source: str, access: Sequence[Access]) -> Iterator[str]:
    """Yield the lines of a job."""
    url = source if is_remote(source) else normalize(source)
    options: Any = side_options("source", url, {}, None)
    is_many = "*" in source
    store, size = (ShardedStore.collect(source, storage_options=options), "") if is_many else _divided(source, options)
    plan = make_plan(store.config)
    formats = sorted({f"v{node.meta.zarr_format}" for node in plan.nodes.values()})
    yield "[[job]]"
    yield f"name = {value_text(name)}"
    yield f"source = {value_text(url)}"
    yield f"# Zarr {' and '.join(formats)}; at most {count(plan.files, 'file')}; {format_bytes(plan.nbytes)} decoded"
    yield from _nodes(plan, store)
    yield f"destination = {value_text(name + '-shards')}  # a folder, or s3://, gs:// or az://"
    if not is_many:
        yield from _shards(store, size, plan, access)
        yield "# include = []           # paths or globs of the groups and arrays to keep"
    if formats == ["v2"]:
        yield "# v3 = true              # convert Zarr v2 to v3"
    yield '# codec = "zstd:level=5"  # compress again'


def _divided(source: str, options: Any) -> tuple[ShardedStore, str]:
    """Return the source, divided by the first size that gives several shards."""
    for size in SIZES:
        store = ShardedStore.partition(source, size, storage_options=options)
        if make_plan(store.config).shard_count > 1:
            return store, size
    return ShardedStore.partition(source, SIZES[0], storage_options=options), SIZES[0]


def _nodes(plan: Plan, store: ShardedStore) -> Iterator[str]:
    lines = list(info_lines(info_of(str(store), plan.config, plan.nodes)))
    yield from (f"# {line}" for line in lines[:MOST_NODES])
    if len(lines) > MOST_NODES:
        yield f"#   ... and {len(lines) - MOST_NODES:,} more; see shardedstore info"


def _shards(store: ShardedStore, size: str, plan: Plan, access: Sequence[Access]) -> Iterator[str]:
    """Yield the lines of the division, by the ways to read, or else by a size."""
    suggestion = store.suggest(size=size, access=access or None)
    if not access:
        yield f"shards = {value_text(size)}  # makes {count(plan.shard_count, 'shard')}; or for each array: {value_text(_few(suggestion))}"
        return
    for one in suggestion.arrays[:MOST_NODES]:
        if one.shards:
            yield f"# /{one.path}: {one.reason}"
    yield f"shards = {value_text(dict(suggestion))}  # makes {count(suggestion.shard_count, 'shard')}"


def _few(suggestion: Suggestion) -> dict[str, Any]:
    """Return the rules of the first array and of the others."""
    rules = list(suggestion.items())
    return dict([*rules[:-1][:1], rules[-1]])
