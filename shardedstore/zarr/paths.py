"""Paths and keys: checks, parts, and the mount that a key belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from shardedstore.errors import UsageError

NAME_MAX = 255  # bytes in a file name, on all common file systems
KEY_MAX = 2048  # bytes; object stores allow 1024


def check_path(path: str, what: str = "path") -> str:
    """Return a valid path unchanged, or raise UsageError.

    >>> check_path("a/b")
    'a/b'
    >>> check_path("a/../b")
    Traceback (most recent call last):
    shardedstore.errors.UsageError: path 'a/../b' has a segment '..': write it as zarr does, like 'group/array'
    """
    if not isinstance(path, str):
        raise UsageError(f"{what} {path!r} is not a string: write it as zarr does, like 'group/array'")
    bad = next((part for part in path.split("/") if part in ("", ".", "..") or "\0" in part), None)
    if bad is not None:
        kind = "an empty segment" if not bad else f"a segment {bad!r}"
        raise UsageError(f"{what} {path!r} has {kind}: write it as zarr does, like 'group/array'")
    if len(path) > NAME_MAX or not path.isascii():
        _check_names(path, what)
    return path


def check_key(key: str) -> None:
    """Raise UsageError for an invalid key.

    An invalid key could lead outside the folder of a shard, or to another shard's files.

    >>> check_key("a/.zarray"), check_key("a/c/0")
    (None, None)
    >>> check_key("a/../../b")
    Traceback (most recent call last):
    shardedstore.errors.UsageError: key 'a/../../b' has a segment '..': write it as zarr does, like 'group/array'
    """
    whole = f"/{key}/"
    if "/." in whole or "//" in whole or "\0" in key:
        check_path(key, "key")
    if len(key) > NAME_MAX or not key.isascii():
        _check_names(key, "key")


def _check_names(key: str, what: str) -> None:
    try:
        data = os.fsencode(key)
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} {key!r} has {key[error.start]!r}, which is not valid in file names") from None
    if len(data) > KEY_MAX or max(map(len, data.split(b"/"))) > NAME_MAX:
        raise UsageError(
            f"{what} {key[:NAME_MAX]!r}... has more than {KEY_MAX:,} bytes, or a segment of more than {NAME_MAX}: file systems "
            "do not allow such names"
        )


def check_prefix(prefix: str) -> None:
    """Raise UsageError for a prefix that no valid key begins with; see `check_key`.

    >>> check_prefix(""), check_prefix("/"), check_prefix("a/")
    (None, None, None)
    >>> check_prefix("/a")
    Traceback (most recent call last):
    shardedstore.errors.UsageError: key '/a' has an empty segment: write it as zarr does, like 'group/array'
    """
    if path := prefix.rstrip("/"):
        check_key(path)


def join(*parts: str) -> str:
    """Join the parts of a key. Empty parts are skipped.

    >>> join("", "a", "", "b")
    'a/b'
    """
    return "/".join(part for part in parts if part)


def escape_glob(path: str) -> str:
    """Return a glob pattern that matches exactly this path.

    >>> escape_glob("a/b[1]*")
    'a/b[[]1][*]'
    """
    return re.sub(r"([*?{[\\])", r"[\1]", path)


def is_below(path: str, parent: str) -> bool:
    """Tell whether a path lies below another; every path except the root lies below the root.

    >>> is_below("a/b", "a"), is_below("ab", "a"), is_below("a", "a"), is_below("a", "")
    (True, False, False, True)
    """
    return path.startswith(f"{parent}/") if parent else bool(path)


def parents(path: str) -> Iterator[str]:
    """Yield the paths above a path, the root last.

    >>> list(parents("a/b/c"))
    ['a/b', 'a', '']
    """
    while path:
        path = path.rpartition("/")[0]
        yield path


_Tree = dict[str, "str | _Tree"]  # nested by path segment; a leaf holds the mount's whole path


class Mounts:
    """The paths at which stores are mounted. No path lies below another.

    >>> mounts = Mounts(["a/b", "c"])
    >>> mounts.resolve("a/b/c/0"), mounts.resolve("a/bc"), mounts.resolve("c")
    (('a/b', 'c/0'), None, ('c', ''))
    >>> list(mounts.children("")), list(mounts.children("a")), mounts.any_below("a")
    (['a', 'c'], ['b'], True)
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = {path and check_path(path, "shard"): None for path in paths}  # "" stands for an array at the root
        self._children: dict[str, dict[str, None]] = {}
        for path in self._paths:
            self._link(path)
        self._depth = max((path.count("/") + 1 for path in self._paths if path), default=0)
        self._tree: _Tree = {}
        for path in self._paths:
            if path:
                *folders, name = path.split("/")
                node = self._tree
                for folder in folders:
                    below = node.setdefault(folder, {})
                    assert isinstance(below, dict)
                    node = below
                node[name] = path

    def _link(self, path: str) -> None:
        child = path
        while child:
            parent, _, name = child.rpartition("/")
            if parent in self._paths:
                raise UsageError(
                    f"shards overlap: {path!r} lies inside {parent!r}, which is one shard: "
                    f"leave one of them out, or divide {parent!r} further"
                )
            self._children.setdefault(parent, {})[name] = None
            child = parent

    def resolve(self, key: str) -> tuple[str, str] | None:
        """Return the mount of a key or path, and the rest of the key; None if it belongs to the base."""
        node = self._tree
        for name in key.split("/", self._depth):
            found = node.get(name)
            if found is None:
                break
            if isinstance(found, str):
                return found, key[len(found) + 1 :]
            node = found
        return ("", key) if "" in self._paths else None

    def children(self, path: str) -> Iterator[str]:
        """Yield the names directly below a path that are mounts or have mounts below them."""
        yield from self._children.get(path, ())

    def any_below(self, path: str) -> bool:
        """Tell whether there are mounts below a path."""
        return path in self._children
