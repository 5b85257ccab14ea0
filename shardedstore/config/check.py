"""Checks of a config beyond the types of its fields: nesting, paths, blocks, members and templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardedstore.errors import ConfigError
from shardedstore.stores.locations import Config, Location, Mount
from shardedstore.stores.members import Members
from shardedstore.zarr.grid import Blocks, block_name, parse_block
from shardedstore.zarr.paths import Mounts

MOST_LEVELS = 64  # of nested objects and arrays
FEW = 100_000  # objects and arrays of one level, up to which repeated objects are accepted
_JSON = (str, bool, int, float, type(None), dict, list, tuple)


def check_json(document: Mapping[str, Any]) -> None:
    """Refuse a document with values that JSON does not have, or with too deep or endless nesting.

    >>> check_json({"a": {1: 2}})
    Traceback (most recent call last):
    shardedstore.errors.ConfigError: the config can't be read: it has the name 1, which is not a string
    """
    level: list[Any] = [document]
    for _ in range(MOST_LEVELS):
        for names in (part for part in level if isinstance(part, dict)):
            _check_names(names)
        values = [value for part in level for value in (part.values() if isinstance(part, dict) else part)]
        strange = next((kind for kind in set(map(type, values)) if not issubclass(kind, _JSON)), None)
        if strange is not None:
            raise ConfigError(f"the config can't be read: it holds a {strange.__name__}, which is not a type of JSON")
        level = [value for value in values if isinstance(value, dict | list | tuple)]
        if not level:
            return
        if len(level) > FEW and len(set(map(id, level))) < len(level) / 2:
            raise ConfigError("the config can't be read: it holds the same objects many times")
    raise ConfigError(f"the config can't be read: it is nested too deeply, in more than {MOST_LEVELS} levels")


def _check_names(names: dict[Any, Any]) -> None:
    if any(type(name) is not str for name in names):
        strange = next((name for name in names if not isinstance(name, str)), None)
        if strange is not None:
            raise ConfigError(f"the config can't be read: it has the name {strange!r}, which is not a string")


def check_config(config: Config) -> None:
    """Refuse invalid paths, blocks, members and templates, and views that leave their source.

    A template is invalid if it gives several shards the same place.

    Raises
    ------
    UsageError
        The message names the shard.
    """
    Mounts(config.shards)
    for path, mount in config.shards.items():
        _check_mount(path, mount)
        for location in (mount.location, *mount.exceptions.values()):
            _check_location(location)
    _check_location(config.base)
    if config.consolidated is not None:
        _check_location(config.consolidated)


def _check_location(location: Location) -> None:
    """Refuse a view or a part that leaves its source, and check a nested config.

    A view that leaves its source could also leave the config's folder.
    """
    location.check()
    inner = location.origin
    if isinstance(inner, Config):
        check_config(inner)


def _check_members(path: str, mount: Mount, members: Members) -> None:
    if mount.blocks is not None:
        raise ConfigError(f"shard {path!r} has both blocks and members: it must be one or the other")
    unknown = next((name for name in mount.exceptions if not members.has_shard(name)), None)
    if unknown is not None:
        raise ConfigError(f"shard {path!r} has no member or shard {unknown!r}")
    is_told_apart = mount.tells_apart(members)
    if len(members.names) > 1 and not is_told_apart and len(mount.exceptions) < members.count:
        raise ConfigError(
            f"shard {path!r} has {len(members.names):,} members, all at {mount.location.show()}: put {{name}} into its URL or path"
        )


def _check_mount(path: str, mount: Mount) -> None:
    is_template = mount.division is not None and (mount.blocks is None or not mount.location.divides_source)
    if is_template and _has_templates(mount.location):
        raise ConfigError(
            f"shard {path!r} has a template with {mount.location.show()}, which has templates of its own: {{block}} or {{name}} is "
            "ambiguous; divide only one of the two"
        )
    if mount.members is not None:
        _check_members(path, mount, mount.members)
        return
    if mount.blocks is not None:
        _check_blocks(path, mount, mount.blocks)
    elif not path:
        raise ConfigError("shard '' would hide the base: only the blocks of an array can be mounted at the root")
    elif mount.exceptions:
        raise ConfigError(f"shard {path!r} has exceptions, but no blocks")


def _has_templates(location: Location) -> bool:
    inner = location.origin
    if not isinstance(inner, Config):
        return False
    mounts = inner.shards.values()
    return any(mount.division is not None for mount in mounts) or any(
        map(_has_templates, [inner.base, *(mount.location for mount in mounts)])
    )


def _check_blocks(path: str, mount: Mount, blocks: Blocks) -> None:
    for index in mount.exceptions:
        try:
            block = parse_block(index)
            known = blocks.within(block) and block_name(block) == index  # int also accepts 01, +1 and 1_0
        except ValueError:
            known = False
        if not known:
            raise ConfigError(f"shard {path!r} has no block {index!r}: its grid of blocks is {blocks.grid}")
        if not blocks.holds(block):
            raise ConfigError(
                f"shard {path!r} has an exception for the block {index!r}, but its field stored says that it has no chunks"
            )
    is_told_apart = mount.location.at_block(blocks, blocks.index(0)) != mount.location
    if not is_told_apart and blocks.count - len(mount.exceptions) > 1:
        raise ConfigError(
            f"shard {path!r} has {blocks.count:,} blocks, all at {mount.location.show()}: put {{block}} into its URL"
        )
