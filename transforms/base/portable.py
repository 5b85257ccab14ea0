"""Portability checks: codecs and types that known readers lack, and names that systems can't store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from toolz import groupby

from shardedstore.codecs.readers import KINDS, Lack, Reader, find_obstacles
from shardedstore.errors import ChainError
from shardedstore.notices import Notice
from shardedstore.storage.urls import is_remote
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.metadata import ArrayMeta


def reader_notices(
    nodes: Mapping[str, Node], kinds: Iterable[str], remedies: Mapping[str, str] | None = None
) -> Iterator[Notice]:
    """Yield a notice for each known reader and each feature of v3 arrays that it lacks; `remedies` are by feature.

    Examples
    --------
    >>> document = b'{"data_type": "int8", "codecs": ["bytes"], "chunk_key_encoding": {"name": "v2"}}'
    >>> meta = ArrayMeta(3, (2,), (1,), None, None, 1)
    >>> for notice in reader_notices({"a": Node(meta, {"zarr.json": document})}, ["codecs", "keys"]):
    ...     print(notice)
    VirtualiZarr 2.8 reads fill values, without an error, for chunks that are named by the encoding 'v2': 'a'
    """
    wanted = list(kinds)
    arrays = {
        path: find_obstacles(node.documents, "sharded" in wanted)
        for path, node in nodes.items()
        if isinstance(node.meta, ArrayMeta) and "zarr.json" in node.documents
    }
    found: dict[tuple[Reader, Lack], dict[str, tuple[str, ...]]] = {}
    for path, obstacles in arrays.items():
        for reader, lack, names in obstacles:
            if reader.is_noticed and lack.feature in wanted and not lack.is_core:
                found.setdefault((reader, lack), {})[path] = names
    for (reader, lack), lacking in sorted(found.items(), key=lambda one: wanted.index(one[0][1].feature)):
        named = ", ".join(map(repr, sorted({name for some in lacking.values() for name in some})))
        verb = "reads wrong values" if lack.feature != "keys" else "reads fill values"
        verb = f"{verb}, without an error, for" if lack.misreads else "can't read"
        remedy = (remedies or {}).get(lack.feature)
        yield Notice(
            f"{reader.name} {verb} {KINDS[lack.feature]} {named}{f'; {remedy}' if remedy else ''}", tuple(lacking)
        )


_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\.|\Z)")

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

_REFUSED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]\Z')


def name_notices(paths: Iterable[str]) -> Iterator[Notice]:
    """Yield notices for paths that Windows, macOS or network drives can't store, or not in the same folder.

    >>> for notice in name_notices(["a/b", "a/aux.x", "a:b", "T", "t"]):
    ...     print(notice)
    Windows and SMB can't hold these names: 'a/aux.x', 'a:b'
    Windows and macOS treat these names as equal: 'T', 't'
    """
    paths = list(paths)
    if refused := tuple(path for path in paths if not is_portable(path)):
        yield Notice("Windows and SMB can't hold these names", refused)
    alike = [some for some in groupby(str.casefold, paths).values() if len(some) > 1]
    if alike:
        yield Notice("Windows and macOS treat these names as equal", tuple(path for some in alike for path in some))


def is_portable(path: str) -> bool:
    """Tell whether Windows can store the names in a path.

    >>> [is_portable(path) for path in ("a/b", "con", "a/nul.txt", "confer", "a./b", "a?", ".a")]
    [True, False, False, True, False, False, True]
    """
    return not any(_DEVICES.match(name) or _REFUSED.search(name) for name in path.split("/"))


def check_carried(paths: Iterable[str], url: str) -> None:
    """Refuse paths with control characters, if each file becomes an object in an object store.

    Raises
    ------
    ChainError
        Names the first such path.
    """
    bad = next((path for path in paths if _CONTROLS.search(path)), None) if is_remote(url) else None
    if bad is not None:
        raise ChainError(
            f"{bad!r} has control characters, which names of objects at {url!r} can't hold: use ToZip, or leave it out with "
            "exclude="
        )
