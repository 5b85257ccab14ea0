"""How a job differs from the one that a destination is of, as its message says: by the chain, or by the source."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from shardedstore.components.kinds import Config, Mount, PartOf, origin, show
from shardedstore.config.document import from_dict
from shardedstore.tasks.source_comparison import Marks

Described = Sequence[tuple[str, Mapping[str, str]]]  # the parts of a chain by name, each with its options
MOST = 3  # differences that are told


def unlike_chain(there: Described, now: Described) -> str:
    """Return how two chains differ; empty where that is not known.

    >>> unlike_chain([("Recompress", {"level": "5"}), ("ToZip", {})], [("Recompress", {"level": "7"}), ("ToZip", {})])
    'Recompress level=5 there, 7 now'
    >>> unlike_chain([("ToZip", {})], [("MigrateV3", {}), ("ToZip", {})])
    'ToZip there, MigrateV3 and ToZip now'
    """
    if not there or not now:
        return ""
    names, others = [name for name, _ in there], [name for name, _ in now]
    if names != others:
        return f"{' and '.join(names)} there, {' and '.join(others)} now"
    return _some(
        f"{name} {option}={before.get(option, 'unset')} there, {after.get(option, 'unset')} now"
        for (name, before), (_, after) in zip(there, now, strict=True)
        for option in {**before, **after}
        if before.get(option) != after.get(option)
    )


def unlike_source(there: Mapping[str, Any], now: Mapping[str, Any], old: Marks, new: Marks) -> str:
    """Return how the sources of two jobs differ, given their configs; empty where that is not known."""
    if not there or not now:
        return ""
    gone = [f"{path!r} is gone" for path in old if path not in new and new]
    others = {*old.keys() ^ new.keys()} if old and new else set()
    found = [*gone, *_unlike_configs(from_dict(there), from_dict(now), others)]
    return _some(found) or _some(_unlike_marks(old, new))


def _unlike_configs(there: Config, now: Config, others: Container[str]) -> Iterator[str]:
    if show(origin(there.base)) != show(origin(now.base)):
        yield f"{show(origin(there.base))} there, {show(origin(now.base))} now"
    elif _kept(there) != _kept(now):
        yield f"include and exclude keep {_kept(there)} there, {_kept(now)} now"
    for path in (path for path in {**there.shards, **now.shards} if path not in others):
        rules = [_rule(config.shards.get(path)) for config in (there, now)]
        if rules[0] != rules[1]:
            yield f"{path!r} is {rules[0]} there, {rules[1]} now"


def _kept(config: Config) -> str:
    base = config.base
    if not isinstance(base, PartOf):
        return "everything"
    only = "everything" if base.only is None else ", ".join(base.only)
    return only + (f" but {', '.join(base.without)}" if base.without else "")


def _rule(mount: Mount | None) -> str:
    if mount is None:
        return "no shard of its own"
    if mount.members is not None:
        return f"stores, {mount.members.together} together"
    return "whole" if mount.blocks is None else f"in blocks of {' x '.join(map(str, mount.blocks.chunks))} chunks"


def _unlike_marks(old: Marks, new: Marks) -> Iterator[str]:
    for path, mark in old.items():
        found = new.get(path)
        if found is not None and found.shape != mark.shape:
            yield f"{path!r} has the shape {mark.shape} there, {found.shape} now"
        elif found is not None and found != mark:
            yield f"the metadata of {path!r} has changed"


def _some(texts: Iterable[str]) -> str:
    found = list(texts)
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return "; ".join(found[:MOST]) + more
