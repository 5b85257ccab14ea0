"""Several shards made one: which members of collections, or whole shards side by side, go together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from shardedstore.components.kinds import Config, Location, Mount, ViewOf, show, url_of
from shardedstore.components.members import Members
from shardedstore.errors import ChainError
from shardedstore.mounts import is_below, join
from shardedstore.notices import node_name


def gather(config: Config, count: int) -> Config:
    """Return a sharded store in which so many members, or whole shards that lie side by side, are one shard.

    Raises
    ------
    ChainError
        For members that stand together in another number.
    """
    shards = {path: _regrouped(path, mount, count) for path, mount in config.shards.items()}
    if count > 1:
        for parent, names in _side_by_side(shards):
            first = shards[join(parent, names[0])].location
            template = _template(first, names[0])
            if template is not None and all(
                _template(shards[join(parent, name)].location, name) == template for name in names
            ):
                for name in names:
                    del shards[join(parent, name)]
                shards[parent] = Mount(template, members=Members(tuple(names), count, parts=True))
    return msgspec.structs.replace(config, shards=dict(sorted(shards.items(), key=lambda item: item[0].split("/"))))


def _regrouped(path: str, mount: Mount, count: int) -> Mount:
    members = mount.members
    if members is None or members.together == count:
        return mount
    if mount.exceptions or "{block}" in (url_of(mount.location) or ""):
        raise ChainError(
            f"the members of {node_name(path)} stand in {show(mount.location)}, {members.together} together: leave out "
            "per_zip, or say the same number"
        )
    return msgspec.structs.replace(mount, members=msgspec.structs.replace(members, together=count))


def _side_by_side(shards: Mapping[str, Mount]) -> Iterator[tuple[str, list[str]]]:
    """Yield the paths below which there are two or more whole shards, and no others but directly, with their names."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path, mount in shards.items():
        if mount.division is None:
            parent, _, name = path.rpartition("/")
            names[parent].append(name)
    for parent, some in names.items():
        below = [path for path in shards if path == parent or is_below(path, parent)]
        if len(some) > 1 and len(below) == len(some):
            yield parent, sorted(some)


def _template(location: Location, name: str) -> Location | None:
    """Return the template of what is a view of something of that name; None for what is none."""
    if not isinstance(location, ViewOf) or location.path.rpartition("/")[2] != name:
        return None
    return ViewOf(location.source, join(location.path.rpartition("/")[0], "{name}"))
