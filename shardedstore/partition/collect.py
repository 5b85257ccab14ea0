"""Collect many independent Zarrs that match a pattern as the shards of one store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import obstore

from shardedstore.errors import PartitionError, UsageError
from shardedstore.storage.blobs import object_store
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.options import Options, StorageOptions, take_options
from shardedstore.storage.retry import patiently
from shardedstore.storage.urls import is_remote, is_zip_name, normalize, unquote_name
from shardedstore.stores.hierarchy import read_nodes
from shardedstore.stores.locations import Config, Directory, Group, Location, Mount, Zip, member_at
from shardedstore.stores.members import Members
from shardedstore.zarr.paths import parents


def collect(
    pattern: str | os.PathLike[str], names: Iterable[str] | None = None, storage_options: StorageOptions = None
) -> Config:
    """Return the config of many Zarrs under one root; see `ShardedStore.collect`."""
    url = normalize(pattern)
    _check(url)
    options = take_options(url.partition("*")[0].rpartition("/")[0], storage_options)
    is_zip = is_zip_name(url)
    found = _listed(url, is_zip, options) if names is None else _given(names)
    if not found:
        raise PartitionError(
            f"nothing matches {url!r}: there are no {'files' if is_zip else 'folders'} with such names"
        )
    template = _template(url)
    location: Location = Zip(template, options) if is_zip else Directory(template, options)
    try:
        mount = Mount(location, members=Members(tuple(found)))
    except ValueError as error:
        raise UsageError(f"the names of the members of {url!r} are not valid: {error}") from None
    nodes = read_nodes(Config(member_at(mount, 0)))
    above = sorted({parent for name in found for parent in parents(name) if parent})
    return Config(Group(nodes[""].meta.zarr_format, {}, tuple(above)), {"": mount})  # type: ignore[arg-type]


def _check(url: str) -> None:
    folder = url.partition("*")[0]
    if not url.count("*") or any(segment.count("*") > 1 for segment in url.split("/")):
        raise UsageError(
            f"{url!r} is not a pattern: put * into one or more segments, once in each, like 'cells/*.zarr'"
        )
    if "{" in url or "}" in url:
        raise UsageError(f"{url!r} has braces in its name, which are placeholders in a config: rename it")
    if is_remote(url) and "/" not in folder.partition("://")[2]:
        raise UsageError(f"{url!r} has * in the name of the bucket: name one bucket")


def _given(names: Iterable[str]) -> list[str]:
    found = {*names}
    if isinstance(names, str) or not found or not all(isinstance(name, str) for name in found):
        raise UsageError(f"names={names!r} must be a list of one or more strings, like names=['a', 'b']")
    return sorted(found)


def _template(url: str) -> str:
    """Return a URL with ``{name}`` from the first to the last star of a pattern.

    >>> _template("/plates/p*/image/*.zarr")
    '/plates/p{name}.zarr'
    """
    return f"{url[: url.index('*')]}{{name}}{url[url.rindex('*') + 1 :]}"


def _listed(url: str, is_zip: bool, options: Options) -> list[str]:
    """Return the names that match a pattern, found by listing one folder after another."""
    if url.startswith(("http://", "https://")):
        raise UsageError(
            f"{url!r} is on a web server, which can't be listed: give the names that * stands for as names="
        )
    folder, _, rest = url.partition("*")
    folder, _, start = folder.rpartition("/")
    segments = f"{start}*{rest}".split("/")
    try:
        paths = [""]
        for i, segment in enumerate(segments):
            files = is_zip and i == len(segments) - 1
            paths = [
                f"{path}{name}/" for path in paths for name in _matching(folder or "/", path, segment, files, options)
            ]
    except STORAGE_ERRORS as error:
        raise PartitionError(f"{folder or '/'!r} can't be listed: {explain(error)}") from error
    before, after = len(unquote_name(start, url)), len(unquote_name(url[url.rindex("*") + 1 :], url))
    return sorted(path[before : len(path) - 1 - after] for path in paths)


def _matching(folder: str, path: str, segment: str, files: bool, options: Options) -> Iterator[str]:
    """Yield the names in a folder that match one segment of the pattern."""
    before, star, after = (unquote_name(part, folder) for part in segment.partition("*"))
    if not star:
        yield before
        return
    fits = re.compile(re.escape(before) + ("" if before else r"(?!\.)") + "(?s:.+)" + re.escape(after)).fullmatch
    listed = _remote(folder, path, files, options) if is_remote(folder) else _local(os.path.join(folder, path), files)
    yield from filter(fits, listed)


def _local(folder: str, files: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if (entry.is_file() if files else entry.is_dir()))
    except (FileNotFoundError, NotADirectoryError):
        return


def _remote(folder: str, path: str, files: bool, options: Options) -> Iterator[str]:
    found = patiently(lambda: obstore.list_with_delimiter(object_store(folder, options), path.rstrip("/") or None))
    paths = [object_["path"] for object_ in found["objects"]] if files else found["common_prefixes"]
    yield from (name.removeprefix(path).rstrip("/") for name in paths)
