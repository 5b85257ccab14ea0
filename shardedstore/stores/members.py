"""Members: stores side by side below one path, found by name and grouped into shards."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from operator import lt
from typing import Annotated

import msgspec
from msgspec import Meta

from shardedstore.errors import UsageError
from shardedstore.fields import Names, Size
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.paths import Mounts, check_path


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Stores side by side below one path; each holds everything below its name.

    Examples
    --------
    >>> members = Members(("a", "b", "c"), together=2)
    >>> members.count, members.find("b/x/0"), members.find("d/x"), list(members.shards())
    (2, (1, 'x/0'), None, [('a', 'b'), ('c',)])
    >>> members.shard_name(1), Members(("a", "b", "c")).shard_name(1), members.shard_of(2)
    ('1', 'b', 1)
    """

    names: Annotated[
        Names,
        Meta(description="The names, sorted. A name may have several segments, and all names have the same number."),
    ]
    together: Annotated[
        Size, Meta(description="The number of consecutive members in one shard; the last shard may have fewer.")
    ] = 1
    parts: Annotated[
        bool,
        Meta(
            description="Whether the members are parts of one Zarr, whose metadata is read with that of the whole. Otherwise each is a Zarr of its own, and the first stands for all until they are read."
        ),
    ] = False

    def __post_init__(self) -> None:
        if not self.names or self.together < 1:
            raise ValueError(f"there must be at least one name, and together must be 1 or more, not {self.together}")
        if not all(map(lt, self.names, islice(self.names, 1, None))):
            raise ValueError("the names must be sorted and unique")
        text = f"/{'/'.join(self.names)}/"
        if any(bad in text for bad in ("//", "/./", "/../", "\0")) or not (
            _is_text(text) and _are_of_one_depth(self.names)
        ):
            _refuse(self.names)

    @property
    def count(self) -> int:
        """The number of shards."""
        return -(-len(self.names) // self.together)

    def shards(self) -> Iterator[tuple[str, ...]]:
        """Yield the names of the members of each shard."""
        for start in range(0, len(self.names), self.together):
            yield self.names[start : start + self.together]

    def shard_of(self, member: int) -> int:
        """Return the number of the shard that holds a member."""
        return member // self.together

    def shard_name(self, number: int) -> str:
        """Return the value of ``{block}``: the member's name if each member is a shard, otherwise the shard's number."""
        return self.names[number] if self.together == 1 else str(number)

    def shard_names(self) -> Iterator[str]:
        """Yield the names of all shards."""
        return map(self.shard_name, range(self.count))

    def in_shard(self, name: str) -> tuple[str, ...]:
        """Return the names of the members of the shard with this name."""
        return (name,) if self.together == 1 else self.cut(int(name), int(name) + 1).names

    def has_shard(self, name: str) -> bool:
        """Tell whether there is a shard with this name."""
        if self.together == 1:
            return self._number(name) is not None
        return len(name) < 20 and name.isdecimal() and str(int(name)) == name and int(name) < self.count

    def cut(self, first: int, stop: int) -> Members:
        """Return the members of the shards from `first` to `stop`, without `stop`."""
        return msgspec.structs.replace(self, names=self.names[first * self.together : stop * self.together])

    def find(self, path: str) -> tuple[int, str] | None:
        """Return the number of the member that holds a key or path, and the rest of it; None if there is none."""
        end = -1
        for _ in range(self.names[0].count("/") + 1):
            end = path.find("/", end + 1)
            if end < 0:
                end = len(path)
                break
        number = self._number(path[:end])
        return None if number is None else (number, path[end + 1 :])

    def _number(self, name: str) -> int | None:
        i = bisect_left(self.names, name)
        return i if i < len(self.names) and self.names[i] == name else None

    def below(self, prefix: str) -> Iterator[int]:
        """Yield the numbers of the members whose names begin with a prefix."""
        first = bisect_left(self.names, prefix)
        found = takewhile(lambda name: name.startswith(prefix), islice(self.names, first, None))
        return (first + i for i, _ in enumerate(found))

    def children(self, path: str) -> Iterator[str]:
        """Yield the names directly below a path that are members or contain members.

        >>> list(Members(("a/x", "a/y", "b/x")).children("")), list(Members(("a/x", "a/y", "b/x")).children("a"))
        (['a', 'b'], ['x', 'y'])
        """
        start = f"{path}/" if path else ""
        yield from dict.fromkeys(self.names[i][len(start) :].partition("/")[0] for i in self.below(start))


Division = Blocks | Members


class MountIndex:
    """Index of the mounts that hold the documents of a group or an array.

    >>> index = MountIndex({"g": None, "cells": Members(("a", "b"))})
    >>> index.find("g/x"), index.find("cells/a"), index.find("cells"), "cells/c" in index
    ('g', 'cells', None, False)
    """

    def __init__(self, mounted: Mapping[str, Division | None]) -> None:
        self.mounted, self.mounts = mounted, Mounts(mounted)

    def find(self, path: str) -> str | None:
        """Return the path of the mount; None for the base, which also holds the documents of divided arrays."""
        found = self.mounts.resolve(path)
        if found is None:
            return None
        division = self.mounted[found[0]]
        if division is None or (isinstance(division, Members) and division.find(found[1]) is not None):
            return found[0]
        return None

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.find(path) is not None


def _is_text(name: str) -> bool:
    """Tell whether a name is valid UTF-8, as a config requires; names of files may be invalid."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_of_one_depth(names: tuple[str, ...]) -> bool:
    depth = names[0].count("/")
    return all(name.count("/") == depth for name in names)


def _refuse(names: tuple[str, ...]) -> None:
    """Raise ValueError for the first invalid name."""
    for name in names:
        try:
            check_path(name, "the name")
        except UsageError as error:
            raise ValueError(str(error)) from None
        if not _is_text(name):
            raise ValueError(f"the name {name!r} is not valid UTF-8: rename it")
    raise ValueError(f"{names[0]!r} and others have different numbers of segments")
