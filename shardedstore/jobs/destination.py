"""Where a job may write: not into its source, nor over what it can't keep apart from its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from shardedstore.chain import Sink
from shardedstore.components.kinds import Config, Directory, Own, locations, origin, url_of
from shardedstore.errors import DestinationError
from shardedstore.storage.access import Options
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.remote_errors import explain
from shardedstore.storage.urls import BESIDE, is_within, join_url, real_url
from shardedstore.tasks.generations import read_identity
from shardedstore.tasks.plan import Plan, target_of


def check_apart(folder: str, config: Config) -> None:
    """Refuse a destination that is a source, or inside one."""
    real = real_url(folder)
    for template in _of_members(config):
        if next(_inside(real, template), None) is not None:
            raise DestinationError(
                f"the destination {folder!r} is, or is inside, what the source {template!r} stands for: name a folder outside of it"
            )
    urls = {url for _, location in locations(config) if (url := url_of(location)) and "{name}" not in url}
    for url in sorted(urls):
        source = real_url(url.partition("{block}")[0].rstrip("/"))
        if is_within(real, source) and not os.path.isfile(url.replace("{block}", "0")):
            raise DestinationError(
                f"the destination {folder!r} is, or is inside, the source {url!r}: name a folder outside of it"
            )


def check_outputs(folder: str, plan: Plan, sink: Sink) -> None:
    """Refuse a shard whose output would lie in a source that stands in the destination."""
    sources = _directories(plan.config)
    for run in plan.runs:
        name = target_of(sink, run)
        place = real_url(join_url(folder, name.partition("{block}")[0] + "0"))
        inside = any(place[: slash.start()] in sources for slash in re.finditer("/", place))
        if inside or any(name for url in _of_members(plan.config) for name in _inside(place, url)):
            raise DestinationError(
                f"{name!r} of the destination {folder!r} lies inside the source: name another folder"
            )


def check_new_zarr(url: str, plan: Plan, sink: Sink) -> None:
    """Refuse to write one ordinary Zarr to where anything is that no such job wrote, or around a source."""
    real = real_url(url)
    for source in sorted(_directories(plan.config) | {real_url(folder_of(url)) for url in _of_members(plan.config)}):
        if is_within(source, real):
            raise DestinationError(f"the source {source!r} lies inside the destination {url!r}: name another folder")
    check_unused(url, sink.options)


def check_unused(url: str, options: Options) -> None:
    """Refuse to write one ordinary Zarr to where anything is that no such job wrote."""
    try:
        if read_identity(open_folder(url + BESIDE, options)) is None and open_folder(url, options).names():
            raise DestinationError(
                f"the destination {url!r} holds files already, and one ordinary Zarr can't stand beside them: name "
                "another, or remove them first"
            )
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {url!r} can't be used: {explain(error)}") from error


def _of_members(config: Config) -> set[str]:
    """Return the URLs in which a name stands for many members, and which are folders."""
    places = {origin(location) for _, location in locations(config)}
    return {place.url for place in places if isinstance(place, Directory | Own) and "{name}" in place.url}


def folder_of(url: str) -> str:
    """Return the folder that all lie in that a URL stands for.

    >>> folder_of("/data/cells/x{name}.zarr")
    '/data/cells'
    """
    return url.partition("{")[0].rpartition("/")[0]


def _inside(place: str, url: str) -> Iterator[str]:
    """Yield what of a place, and of the folders above it, could be what a URL with a name in it stands for.

    >>> list(_inside("/data/a.zarr/out", "/data/{name}.zarr")), list(_inside("/data/out", "/data/{name}.zarr"))
    (['/data/a.zarr'], [])
    """
    start = f"{real_url(folder_of(url))}/"
    rest = url[len(folder_of(url)) + 1 :]
    pattern = re.escape(start) + ".+".join(re.escape(part) for part in re.split(r"\{(?:name|block)\}", rest))
    for end in [*(slash.start() for slash in re.finditer("/", place)), len(place)]:
        is_as_deep = place[:end].count("/") == start.count("/") + rest.count("/")
        if is_as_deep and re.fullmatch(pattern, place[:end]):
            yield place[:end]


def _directories(config: Config) -> set[str]:
    """Return the folders that a config's sources stand in."""
    places = {origin(location) for _, location in locations(config)}
    urls = {place.url for place in places if isinstance(place, Directory | Own) and "{name}" not in place.url}
    return {real_url(url.partition("{block}")[0]) for url in urls}
