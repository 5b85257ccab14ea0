"""Open stores that a user names on a command line or in a job file."""

from __future__ import annotations

from typing import Any

from shardedstore.errors import UsageError
from shardedstore.jobfiles.secrets import resolve_storage
from shardedstore.jobfiles.spec import JobSpec, ShardRules
from shardedstore.partition.shard_sizes import DEFAULT_SIZE
from shardedstore.storage.sides import side_options
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.store import ShardedStore
from shardedstore.stores.recognise import has_config, is_pipeline


def open_any(what: str, options: Any) -> tuple[ShardedStore, bool]:
    """Open a Zarr, a zip, a config or a collection; return the store and whether it is a config."""
    if is_pipeline(what):
        return ShardedStore.partition(what, [], storage_options=options), False
    url = normalize(what)
    if "*" in what:
        return ShardedStore.collect(what, storage_options=options), False
    if has_config(url, options):
        return ShardedStore.load(what, allow=[] if is_remote(url) else ["/"], storage_options=options), True
    return ShardedStore.partition(what, [], storage_options=options), False


def source_options(spec: JobSpec) -> Any:
    """Return the storage options of the source."""
    return side_options("source", spec.source, resolve_storage(spec.source_storage), spec.source_profile)


def open_source(spec: JobSpec) -> ShardedStore:
    """Return the source of a job. A config or a collection keeps its own shards; a Zarr is divided by the rules."""
    is_asked = bool(spec.shards or spec.include or spec.exclude)
    options = source_options(spec)
    if "*" in spec.source:
        if is_asked:
            raise UsageError(
                f"--shards, --include and --exclude are for one Zarr, but {spec.source!r} matches many: leave these options out"
            )
        return ShardedStore.collect(spec.source, storage_options=options)
    what: str | ShardedStore = spec.source
    if "|" not in spec.source and has_config(normalize(spec.source), options):
        what, is_config = open_any(spec.source, options)
        if is_config and not is_asked:
            return what
    return ShardedStore.partition(
        what,
        shard_rules(spec.shards),
        include=spec.include or None,
        exclude=spec.exclude or None,
        storage_options=options if what is spec.source else None,
    )


def shard_rules(shards: ShardRules | None) -> Any:
    """Return the value of `shards` for `ShardedStore.partition`.

    >>> shard_rules(None), shard_rules({"t": [720, -1]})
    ('1 GiB', {'t': (720, -1)})
    """
    if isinstance(shards, dict):
        return {path: tuple(rule) if isinstance(rule, list) else rule for path, rule in shards.items()}
    return DEFAULT_SIZE if shards is None else shards
