"""``shardedstore ls`` and ``shardedstore cat``."""

from __future__ import annotations

import json
import sys

import click
from dask.utils import format_bytes
from toolz import partition_all

from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.display.shards import StoredShard
from shardedstore.display.tables import aligned
from shardedstore.errors import UsageError
from shardedstore.jobfiles.open import open_any
from shardedstore.stores.reader import reader_of
from shardedstore.zarr.metadata import format_of


@click.command()
@click.argument("what", metavar="PATH")
@click.option("--keys", is_flag=True, help="List the keys instead, such as t2m/c/0/1.")
@click.option("--under", default="", metavar="PREFIX", help="List only the shards or keys below this path.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@storage_params("PATH")
def ls(what: str, *, keys: bool, under: str, as_json: bool, storage: tuple[str, ...], profile: str | None) -> None:
    """List the shards or the keys of a Zarr, a zip or a config.

    A line has the name, the kind, the size and the URL of a shard.

    The URLs are pipelines of Zarr's ZEP 8, such as s3://bucket/era5/t2m/0.zarr.zip|zip:|zarr3:, which tensorstore and neuroglancer
    open. The size of a folder is not known without a listing, and is left out.
    """
    with user_errors(what):
        store, _ = open_any(what, parse_side("destination", what, storage, profile))
        if keys:
            found = sorted(reader_of(store).keys(under.strip("/"), None))
            for some in partition_all(LINES, found):
                tell("\n".join(json.dumps({"key": key}) if as_json else key for key in some))
            return
        names = [name for name, data in zip(FORMATS, reader_of(store).fetch(FORMATS), strict=True) if data is not None]
        end = f"|zarr{format_of(names)}:"
        shards = (shard for shard in store.shards if _is_below(shard.path, under.strip("/")))
        if as_json:
            for shard in shards:
                tell(
                    json.dumps(
                        {"shard": shard.name, "kind": shard.kind, "nbytes": shard.nbytes, "url": _url(shard, end)}
                    )
                )
            return
        for line in aligned((shard.name, shard.kind, _size(shard), _url(shard, end)) for shard in shards):
            tell(line)


LINES = 4096  # written at once
FORMATS = ("zarr.json", ".zgroup", ".zarray")


def _is_below(path: str, start: str) -> bool:
    return not start or f"{path}/".startswith(f"{start}/")


def _size(shard: StoredShard) -> str:
    return "" if shard.nbytes is None else format_bytes(shard.nbytes)


def _url(shard: StoredShard, end: str) -> str:
    found = shard.location.pipeline
    return found + end if "://" in found else found


@click.command()
@click.argument("what", metavar="PATH")
@click.argument("key")
@storage_params("PATH")
def cat(what: str, key: str, *, storage: tuple[str, ...], profile: str | None) -> None:
    """Write the value of one key to standard output.

    The value is a metadata document, or the encoded bytes of a chunk.
    """
    with user_errors(what):
        store, _ = open_any(what, parse_side("destination", what, storage, profile))
        (data,) = reader_of(store).fetch([key])
        if data is None:
            raise UsageError(f"there is no key {key!r}: list the keys with 'shardedstore ls --keys {what}'")
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
